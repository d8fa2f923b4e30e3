"""Settings that every test shares."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

# Small tensors gain nothing from a second thread, and threads that wait for each other on a busy
# machine make a test ten times slower.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def the_same_numbers_each_time() -> None:
    """Begin every test at one random state, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def compiler_is_left_as_it_was() -> Iterator[None]:
    """Fail a test that leaves compiled code running eagerly: later ones would not notice."""
    yield
    frame = sys.modules.get("torch._dynamo.eval_frame")
    if frame is not None:
        assert frame._stance.stance == "default"  # type: ignore[attr-defined]
