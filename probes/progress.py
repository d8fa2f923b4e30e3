"""A progress bar for work whose size is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def steps_of(
    description: str, total: int, shown: bool, console: Console | None = None
) -> Iterator[Callable[[], None]]:
    """Give a function to call after each piece of work, and show how far it is.

    Args:
        description: what is being done.
        total: number of pieces.
        shown: whether there is a bar; without one the function does nothing.
        console: where the bar goes; standard error if None.

    Example:
        >>> with steps_of("counting", 2, shown=False) as advance:
        ...     advance()
    """
    if not shown:
        yield lambda: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console or Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)
