"""Attributions on their way to a run's folder and back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.studies import Study, read_studies, write_study
from .attribution_result import Attribution
from .timestep_result import TimestepImportance

KEPT_SAMPLES = 8
"""Samples whose input attribution is kept: enough to look at, bounded on disk."""

_PARTS = ("scores", "ablation", "output_change", "noise")


def store_attribution(folder: str | Path, found: Attribution) -> Path:
    """Keep an attribution with a run; an earlier one by the same method is replaced.

    Args:
        folder: the run's folder.
        found: what to keep; of the input's attribution the first :data:`KEPT_SAMPLES` samples.

    Returns:
        Path of the file.

    Raises:
        ValueError: the folder is no run.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "run.json").write_text("{}")
        >>> maps = {"lif": np.ones((1, 2, 3))}
        >>> found = Attribution("ablation", (0,), maps, maps, {"lif": np.ones((1, 2))})
        >>> _ = store_attribution(folder, found)
        >>> stored_attributions(folder)[0][0].layers
        ('lif',)
    """
    layers = found.layers
    arrays: dict[str, NDArray[Any]] = {}
    for part in _PARTS:
        held = getattr(found, part)
        arrays |= {f"{part}.{i}": held[name] for i, name in enumerate(layers) if name in held}
    if found.inputs is not None:
        arrays["inputs"] = found.inputs[:, :KEPT_SAMPLES].astype(np.float32)
    meta = {
        "method": found.method,
        "classes": list(found.classes),
        "layers": list(layers),
        "settings": dict(found.settings),
        "notes": list(found.notes),
    }
    return write_study(folder, "attribution", found.method, meta, arrays)


def stored_attributions(folder: str | Path) -> tuple[list[Attribution], list[str]]:
    """Return the attributions kept with a run, newest first, and what could not be read."""
    studies, problems = read_studies(folder, "attribution")
    found = []
    for study in studies:
        try:
            found.append(_attribution(study))
        except (KeyError, TypeError) as error:
            problems.append(f"attribution.{study.name}.npz lacks {error} and is left out")
    return found, problems


def store_timesteps(folder: str | Path, found: TimestepImportance) -> Path:
    """Keep the importance of timesteps with a run; an earlier one is replaced."""
    arrays = {
        "falls": found.falls,
        "right_without": found.right_without,
        "right_with_first": found.right_with_first,
    }
    return write_study(folder, "timesteps", "all", {"reason": found.reason}, arrays)


def stored_timesteps(folder: str | Path) -> tuple[TimestepImportance | None, list[str]]:
    """Return the importance of timesteps kept with a run, None if there is none."""
    studies, problems = read_studies(folder, "timesteps")
    for study in studies:
        try:
            arrays = {k: study.arrays[k] for k in ("falls", "right_without", "right_with_first")}
            return TimestepImportance(reason=study.meta["reason"], **arrays), problems
        except (KeyError, TypeError) as error:
            problems.append(f"timesteps.{study.name}.npz lacks {error} and is left out")
    return None, problems


def _attribution(study: Study) -> Attribution:
    meta, arrays = study.meta, study.arrays

    def held(part: str, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        return {name: arrays[f"{part}.{i}"] for i, name in enumerate(names)}

    parts = {part: held(part, meta["layers"]) for part in _PARTS if part != "noise"}
    noise = held("noise", meta["layers"]) if "noise.0" in arrays else {}
    return Attribution(
        meta["method"],
        tuple(meta["classes"]),
        **parts,
        noise=noise,
        inputs=arrays.get("inputs"),
        settings=meta["settings"],
        notes=tuple(meta["notes"]),
    )
