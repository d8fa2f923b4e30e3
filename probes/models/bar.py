"""What a training shows while it runs, and how many threads it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

SHOW_LOSS_EVERY = 5
"""Steps between two looks at the loss."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many CPU threads, and as many as before at the end.

    Small tensors gain little from a second thread, but on a machine that is busy with other work
    the threads wait for each other and training takes ten times as long.

    Example:
        >>> with threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def training_bar(console: Console | None) -> Progress:
    """Return a progress bar whose tasks have the fields ``loss`` and ``accuracy``.

    Args:
        console: where it goes; the standard output if None.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}, test accuracy {task.fields[accuracy]}"),
        TimeRemainingColumn(),
        console=console,
    )
