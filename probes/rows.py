"""From the blocks of a step to the rows of a run's tables, column by column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.merge import merge_rows
from ..data.schema import COLUMNS, DENSITY_BINS, KEYS, STORED
from .accumulators import Block
from .batch import Batch, Fine


def by_column(names: Sequence[str], rows: list[Any]) -> dict[str, Any]:
    """Return rows as columns of the given names."""
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def records(batch: Batch) -> dict[str, Any]:
    """Return the stored columns of all blocks of a step; what a block did not see is 0 or NaN."""
    rows = [
        (mode, layer, t + k)
        for mode, layer, t, block in batch.blocks
        for k in range(len(block["samples"]))
    ]
    modes, layers, timesteps = zip(*rows, strict=True)
    out: dict[str, Any] = {
        "step": np.full(len(rows), batch.step),
        "mode": list(modes),
        "layer": list(layers),
        "t": np.array(timesteps),
    }
    for name in STORED:
        if name not in KEYS:
            out[name] = _column(name, [block for *_, block in batch.blocks])
    if len(set(rows)) == len(rows):
        return out
    # Calls of different length, or one timestep at a time: several blocks speak of one row.
    out["density"] = list(out["density"])
    merged = merge_rows(pd.DataFrame(out))
    return {name: list(merged[name]) for name in STORED}


def _column(name: str, blocks: Sequence[Block]) -> np.ndarray:
    dtype = COLUMNS[name].dtype
    values = [block.get(name) for block in blocks]
    for place, found in enumerate(values):
        if found is None:
            values[place] = _absent(dtype, len(blocks[place]["samples"]))
    column: np.ndarray = torch.cat(values).numpy()  # type: ignore[arg-type]
    return column.astype(_STORED_AS[dtype], copy=False)


_STORED_AS = {"int64": np.int64, "float64": np.float64, "counts": np.int64}


def _absent(dtype: str, rows: int) -> Tensor:
    """Return what a column holds where a block did not see it."""
    if dtype == "counts":
        return torch.zeros(rows, DENSITY_BINS, dtype=torch.int64)
    if dtype == "float64":
        return torch.full((rows,), math.nan, dtype=torch.float64)
    return torch.zeros(rows, dtype=torch.int64)


def fine_rows(step: int, entry: Fine) -> list[tuple[Any, ...]]:
    """Return the rows of the table that an entry belongs to."""
    counts = entry.counts.numpy()
    if entry.table == "maps":
        where = (step, entry.mode, entry.layer)
        return [(*where, list(entry.shape), entry.chances, counts.reshape(-1))]
    return [
        (step, entry.mode, entry.layer, entry.t + k, counts[k].reshape(-1))
        for k in range(len(counts))
    ]
