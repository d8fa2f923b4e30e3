"""What each timestep carries of a decision, and what fewer timesteps would cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .attribution_result import Array, standard_error


@dataclass(frozen=True)
class TimestepImportance:
    """Ablation of timesteps, and accuracy with fewer of them.

    Args:
        falls: ``[sample, t]``: fall of the true class's output when all layers are silent at t.
        right_without: ``[sample, t]``: 1 where the sample is still classified right then.
        right_with_first: ``[sample, t]``: 1 where it is classified right by a run of only the
            first t timesteps; NaN where the model could not be run shorter.
        reason: why it could not; empty if it could.
    """

    falls: Array
    right_without: Array
    right_with_first: Array
    reason: str = ""

    def table(self) -> pd.DataFrame:
        """Return a row per timestep.

        Returns:
            Columns ``t, fall, fall_se`` (units of the output), ``accuracy_without,
            accuracy_without_se, accuracy_with_first, accuracy_with_first_se`` (shares).
        """
        columns = {
            "fall": self.falls,
            "accuracy_without": self.right_without,
            "accuracy_with_first": self.right_with_first,
        }
        table: dict[str, list[float] | list[int]] = {"t": list(range(1, self.falls.shape[1] + 1))}
        for name, values in columns.items():
            table[name] = [float(column.mean()) for column in values.T]
            table[f"{name}_se"] = [standard_error(column) for column in values.T]
        return pd.DataFrame(table)

    @property
    def enough(self) -> int | None:
        """Least number of timesteps whose accuracy is not shown to be below that of all.

        Samples are compared in pairs: the mean loss of right answers less 1.645 standard errors
        is not above 0 (one-sided 95 %). None if the model could not be run shorter.
        """
        if self.reason:
            return None
        whole = self.right_with_first[:, -1]
        for t in range(self.falls.shape[1]):
            lost = whole - self.right_with_first[:, t]
            error = standard_error(lost)
            if lost.mean() <= 1.645 * (0.0 if np.isnan(error) else error):
                return t + 1
        return int(self.falls.shape[1])
