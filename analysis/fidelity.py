"""How well the gradients of a surrogate explain a trained network: a curve over its width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data.studies import read_studies, write_study
from .attribution_result import GAP_BOUND, completeness_gap


@dataclass(frozen=True)
class FidelityCurve:
    """Completeness gap of integrated gradients for each surrogate tried.

    Args:
        shapes: name of the shape, one per row.
        widths: width in units of the potential.
        peaks: peak, 1 / potential.
        attributed: ``[row, sample]``: sum of the attributions, units of the output.
        change: ``[sample]``: change of the output, the same for every surrogate.
        own: row of the surrogate that the model has; None if its layers differ or none is known.
    """

    shapes: tuple[str, ...]
    widths: NDArray[np.float64]
    peaks: NDArray[np.float64]
    attributed: NDArray[np.float64]
    change: NDArray[np.float64]
    own: int | None = None

    def table(self) -> pd.DataFrame:
        """Return a row per surrogate.

        Returns:
            Columns ``shape, width, peak, gap, gap_se, own``: gap as a share of the output's
            change; NaN where the gradients were not finite.
        """
        gaps = [completeness_gap(row, self.change) for row in self.attributed]
        return pd.DataFrame(
            {
                "shape": self.shapes,
                "width": self.widths,
                "peak": self.peaks,
                "gap": [gap for gap, _ in gaps],
                "gap_se": [error for _, error in gaps],
                "own": [row == self.own for row in range(len(self.shapes))],
            }
        )

    @property
    def best(self) -> int | None:
        """Row with the smallest gap; None if no gap is finite."""
        gaps = self.table()["gap"].to_numpy(dtype=float)
        finite = np.isfinite(gaps)
        return int(np.flatnonzero(finite)[gaps[finite].argmin()]) if finite.any() else None

    @property
    def reading(self) -> str:
        """What the curve says, in at most two sentences."""
        if self.best is None:
            return "No surrogate gave finite gradients."
        row = self.table().iloc[self.best]
        said = (
            f"{row['shape']} of width {row['width']:.3g} explains the output best: its "
            f"attributions miss {row['gap']:.0%} of the change."
        )
        verdict = (
            "That is evidence about this network, and no proof that it trains best."
            if row["gap"] <= GAP_BOUND
            else f"No surrogate comes under {GAP_BOUND:.0%}: none of their gradients adds up."
        )
        return f"{said} {verdict}"


def store_fidelity(folder: str | Path, curve: FidelityCurve) -> Path:
    """Keep a curve with a run; an earlier one is replaced.

    Raises:
        ValueError: the folder is no run.
    """
    meta: Mapping[str, Any] = {"shapes": list(curve.shapes), "own": curve.own}
    arrays = {
        "widths": curve.widths,
        "peaks": curve.peaks,
        "attributed": curve.attributed,
        "change": curve.change,
    }
    return write_study(folder, "fidelity", "all", meta, arrays)


def stored_fidelity(folder: str | Path) -> tuple[FidelityCurve | None, list[str]]:
    """Return the curve kept with a run, None if there is none, and what could not be read."""
    studies, problems = read_studies(folder, "fidelity")
    for study in studies:
        try:
            arrays = {k: study.arrays[k] for k in ("widths", "peaks", "attributed", "change")}
            return FidelityCurve(
                tuple(study.meta["shapes"]), **arrays, own=study.meta["own"]
            ), problems
        except (KeyError, TypeError) as error:
            problems.append(f"fidelity.{study.name}.npz lacks {error} and is left out")
    return None, problems
