"""What a network's layers do on some batches, recorded by the package's own probe."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import spikescope
from spikescope.data.densities import Density
from spikescope.data.runs import Layer
from spikescope.probes.lif import reset_state


@dataclass(frozen=True)
class Recorded:
    """A recording without training.

    Args:
        table: a row per (step, layer, t); a step is a batch.
        densities: histograms of u by layer.
        layers: by name, in network order.
    """

    table: pd.DataFrame
    densities: dict[str, Density]
    layers: dict[str, Layer]

    def per_batch(self, layer: str, column: str) -> np.ndarray:
        """Return a column of one layer, ``[batch, T]``."""
        rows = self.table[self.table["layer"] == layer]
        return rows.pivot(index="step", columns="t", values=column).to_numpy(dtype=float)

    def mean(self, column: str) -> np.ndarray:
        """Return a column's mean over batches, ``[layer, T]``."""
        return np.stack([self.per_batch(name, column).mean(0) for name in self.layers])

    def histogram(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return counts of u over all batches, ``[T, bins]``, and the edges in potential."""
        density = self.densities[layer]
        threshold = float(self.layers[layer].spec["threshold"])
        return density.counts.sum(0), density.edges * density.scale + threshold


def record(model: nn.Module, batches: list[Tensor], mode: str = "train") -> Recorded:
    """Show a copy of the model some batches and return what a probe sees; the model stays.

    Args:
        model: the network.
        batches: inputs; each becomes one recorded step.
        mode: ``"train"`` or ``"eval"``.
    """
    model = copy.deepcopy(model)
    model.train(mode == "train")
    with tempfile.TemporaryDirectory() as folder:
        with spikescope.watch(model, Path(folder) / "run", every=1) as probe, torch.no_grad():
            for batch in batches:
                reset_state(model)
                model(batch)
                probe.step()
        run = spikescope.open_run(Path(folder) / "run")
        table = run.table(mode=mode)
        densities = run.densities(mode=mode)
        layers = {layer.name: layer for layer in run.covered}
    return Recorded(table, densities, layers)


def drift(recorded: Recorded) -> np.ndarray:
    """Return W1 of the law of u at each t to that at T, in thresholds, ``[layer, T]``."""
    from spikescope.analysis.distance import centres, wasserstein

    found = []
    for name, layer in recorded.layers.items():
        counts, edges = recorded.histogram(name)
        shares = counts / counts.sum(-1, keepdims=True)
        positions = centres(edges) / float(layer.spec["threshold"])
        found.append([float(wasserstein(row, shares[-1], positions)) for row in shares])
    return np.array(found)


def batches_of(inputs: Any, count: int, size: int, seed: int) -> list[Tensor]:
    """Return some random batches of inputs."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    return [inputs[some] for some in order[: count * size].split(size)]
