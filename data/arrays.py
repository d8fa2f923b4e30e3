"""Columns that wait to be written: chunks of them become one Arrow array each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .parts import TABLES


def joined(table: str, chunks: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array]:
    """Return the columns of a table, those of all chunks behind one another.

    Args:
        table: a key of :data:`~spikescope.data.parts.TABLES`.
        chunks: by name of a column ``[rows]`` values, or ``[rows, entries]`` where each row holds
            a list.

    Returns:
        An array for each column, of the type that the table gives it.

    Example:
        >>> chunk = {"step": np.array([3, 4]), "name": ["loss"] * 2, "value": [0.5, 0.25]}
        >>> {name: values.to_pylist() for name, values in joined("scalars", [chunk]).items()}
        {'step': [3, 4], 'name': ['loss', 'loss'], 'value': [0.5, 0.25]}
    """
    return {
        field.name: _array([chunk[field.name] for chunk in chunks], field.type)
        for field in TABLES[table]
    }


def _array(chunks: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if not all(isinstance(chunk, np.ndarray) for chunk in chunks):
        return pa.array([value for chunk in chunks for value in chunk], kind)
    values = np.concatenate(chunks)
    if values.ndim == 1:
        return pa.array(values, kind)
    # A row of lists is what lies between two offsets: nothing is looked at value by value.
    offsets = np.arange(len(values) + 1, dtype=np.int32) * np.int32(values.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), kind.value_type))
