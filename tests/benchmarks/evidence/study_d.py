"""d. TrSG: gradients over thresholds, with and without batch norm behind every layer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from spikescope.probes.lif import LIF, reset_state
from spikescope.probes.remedies import attach_remedy

from . import plots
from .statistics import Claim, Section, judge, mean_and_error
from .tasks import Task, build, fit, parts

NAME = "d"
TITLE = "TrSG: gradients over thresholds, with and without batch-norm consumers"

SEEDS = range(3)
FORMS = ("as", "rs", "trsg")
THRESHOLDS = (0.1, 0.5, 1.0, 2.0)
CONSUMERS = ("batch norm", "no norm")
SGD_RATES = {"batch norm": 0.02, "no norm": 0.1}
"""SGD, because Adam would hide the size of a gradient: the paper's rate, and one at which the
network without norm learns at V = 1 (chosen on validation samples of another seed)."""

SMALLEST = 1e-6
"""A gradient below it counts as this: what is exactly 0 is no number of decades away."""

_SETTINGS = (("depth", 5), ("channels", 8), ("timesteps", 4))
TASKS = {
    "batch norm": Task(
        "vgg-small",
        "digits",
        60,
        SGD_RATES["batch norm"],
        64,
        settings=(*_SETTINGS, ("norm", "batch")),
    ),
    "no norm": Task(
        "vgg-small", "digits", 60, SGD_RATES["no norm"], 64, settings=(*_SETTINGS, ("norm", "none"))
    ),
}


class NormalisedReadout(nn.Module):
    """A network whose logits pass a batch norm: then every consumer of spikes has one.

    Args:
        model: the network.
        classes: number of logits.
        eps: of the norm.
    """

    def __init__(self, model: nn.Module, classes: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.model = model
        self.norm = nn.BatchNorm1d(classes, eps=eps, affine=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return normalised logits."""
        logits: Tensor = self.norm(self.model(inputs))
        return logits


def units(quick: bool) -> list[dict[str, Any]]:
    """Return one unit per consumers, form, threshold and seed."""
    thresholds = THRESHOLDS[::2] if quick else THRESHOLDS
    seeds = range(2) if quick else SEEDS
    return [
        {"consumers": consumers, "form": form, "threshold": threshold, "seed": seed}
        for consumers in CONSUMERS
        for threshold in thresholds
        for seed in seeds
        for form in FORMS
    ]


def measure(unit: dict[str, Any]) -> dict[str, Any]:
    """Measure the gradients at the start, in double precision; then train, thresholds frozen."""
    task, seed = TASKS[unit["consumers"]], unit["seed"]
    found = parts(task.data, task.data_settings, seed)
    normalised = unit["consumers"] == "batch norm"

    def made(eps: float) -> nn.Module:
        model = build(task, seed, threshold=unit["threshold"])
        if normalised:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps = eps
            model = NormalisedReadout(model, found.classes, eps)
        return model

    model = made(1e-12).double()
    settings = {"threshold": unit["threshold"], "learn_decay": False}
    attach_remedy(f"{unit['form']}_sg" if unit["form"] != "trsg" else "trsg", model, **settings)
    inputs, targets = found.train[0][:128].double(), found.train[1][:128]
    reset_state(model)
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    slope = 1.0 - math.exp(-unit["threshold"])  # d threshold / d raw of softplus
    layers = [module for module in model.modules() if isinstance(module, LIF)]
    by_threshold = [float(layer.rule.raw_threshold.grad) / slope for layer in layers]  # type: ignore
    weights = [
        parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and "raw" not in name
    ]
    first = next(grad for grad in weights if grad.ndim > 1)
    trained = made(1e-5)
    attach_remedy(
        f"{unit['form']}_sg" if unit["form"] != "trsg" else "trsg", trained,
        **settings, learn_threshold=False,
    )  # fmt: skip
    result = fit(task, trained, seed, optimizer="sgd")
    return {
        **result,
        "by_threshold": by_threshold,
        "first_weight": float(first.norm()),
        "sample": first.flatten()[:16].tolist(),
    }


def report(rows: list[dict[str, Any]], out: Path) -> Section:
    """Compare the forms over thresholds."""
    section = Section(
        TITLE,
        [
            "Four spiking convolutions (VGG-style, T = 4, digits). *Batch norm*: a batch norm "
            "with batch statistics behind every layer and behind the readout, so that the height "
            "of a spike is absorbed; *no norm*: none at all. Gradients at the start in double "
            "precision, sum over 128 samples; then training with frozen thresholds, SGD with "
            "momentum 0.9. AS: window of width 1; RS: width V; TrSG: width "
            "V and spikes of height V. A gradient of 0 counts as 1e-6.",
        ],
    )
    table = [
        "| consumers | V | norm of dL/dW of the first layer: AS / RS / TrSG | norm of dL/dV over "
        "layers: AS / RS / TrSG | test accuracy: AS / RS / TrSG |",
        "|---|---|---|---|---|",
    ]
    by: dict[tuple[str, float, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row["settings"][name] for name in ("consumers", "threshold", "form"))
        by.setdefault(key, {})[row["settings"]["seed"]] = row["result"]  # type: ignore[arg-type]
    for consumers, threshold in dict.fromkeys(key[:2] for key in by):
        cells = [list(by.get((consumers, threshold, form), {}).values()) for form in FORMS]
        if not all(cells):
            continue
        table.append(
            f"| {consumers} | {threshold} | "
            + " / ".join(_g([cell["first_weight"] for cell in some]) for some in cells)
            + " | "
            + " / ".join(_g([_size(cell) for cell in some]) for some in cells)
            + " | "
            + " / ".join(_percent([cell["test"] for cell in some]) for some in cells)
            + " |"
        )
    section.text.append("\n".join(table))
    section.claims += _claims(by)
    plots.over_thresholds(by, out / "d_trsg.png")
    section.plots.append("d_trsg.png")
    return section


def _claims(by: dict[tuple[str, float, str], dict[int, dict[str, Any]]]) -> list[Claim]:
    claims = []
    thresholds = sorted({key[1] for key in by})
    worst = 0.0
    compared = 0
    for threshold in thresholds:
        rs, trsg = (by.get(("batch norm", threshold, form), {}) for form in ("rs", "trsg"))
        for seed in set(rs) & set(trsg):
            a, b = (
                np.array(each[seed]["sample"] + each[seed]["by_threshold"]) for each in (rs, trsg)
            )
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-300)))
            compared += 1
    if compared:
        claims.append(
            Claim(
                "d",
                "absorbed",
                "Where every consumer has a batch norm, TrSG and RS-SG give the same gradients, "
                "thresholds included: TrSG mends nothing there.",
                "reproduced" if worst < 1e-4 else "contradicted",
                worst,
                seeds=compared,
                unit="largest relative difference (results are kept to 6 digits)",
                remedy="trsg",
            )
        )
    for consumers in CONSUMERS:
        spread: dict[str, dict[int, float]] = {}
        for form in FORMS:
            cells = [by.get((consumers, threshold, form), {}) for threshold in thresholds]
            for seed in set.intersection(*(set(cell) for cell in cells)) if cells else set():
                sizes = np.log10([max(cell[seed]["first_weight"], SMALLEST) for cell in cells])
                spread.setdefault(form, {})[seed] = float(sizes.max() - sizes.min())
        for other in ("as", "rs"):
            mine, theirs = spread.get("trsg", {}), spread.get(other, {})
            claims.append(
                judge(
                    "d",
                    f"steadier gradient than {other}: {consumers}",
                    f"Over V in {{{', '.join(map(str, thresholds))}}} the weight gradient varies "
                    f"less under TrSG than under {other.upper()}-SG ({consumers}).",
                    [theirs[seed] - mine[seed] for seed in sorted(set(mine) & set(theirs))],
                    "decades",
                    remedy="trsg",
                )
            )
        for threshold in (thresholds[0], thresholds[-1]) if thresholds else ():
            for other in ("as", "rs"):
                mine = by.get((consumers, threshold, "trsg"), {})
                theirs = by.get((consumers, threshold, other), {})
                claims.append(
                    judge(
                        "d",
                        f"accuracy over {other} at V = {threshold}: {consumers}",
                        f"At a frozen V = {threshold}, TrSG trains to a higher accuracy than "
                        f"{other.upper()}-SG ({consumers}).",
                        [
                            mine[seed]["test"] - theirs[seed]["test"]  # type: ignore[index]
                            for seed in sorted(set(mine) & set(theirs))
                        ],
                        "accuracy",
                        remedy="trsg",
                    )
                )
    return claims


def _size(result: dict[str, Any]) -> float:
    return float(np.linalg.norm(result["by_threshold"]))


def _g(values: list[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.2g} ± {error:.1g}"


def _percent(values: list[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{100 * mean:.1f} ± {100 * error:.1f}"
