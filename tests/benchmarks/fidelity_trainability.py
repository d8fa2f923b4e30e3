"""Does the surrogate that explains a network best also train it best?

    python tests/benchmarks/fidelity_trainability.py

For each of 5 seeds a small digits network is trained once per surrogate (3 shapes x 5 widths, area
1), and the completeness gap of every surrogate is measured on one network that was trained with
the default surrogate, and on the same network before training. The rank correlation of gap and
test accuracy over the 15 surrogates is reported with its interval over the seeds, also apart from
the surrogates that train to chance. Results: results/fidelity_trainability.json. Finished seeds are
kept, so that an interrupted run goes on. About 15 minutes on one core.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from scipy import stats

from spikescope.data.datasets import load
from spikescope.probes.models.networks import DigitsNet, digits_net
from spikescope.probes.models.training import train
from spikescope.probes.surrogate_fidelity import surrogate_fidelity, unit_area

SHAPES = ("arctan", "gaussian", "triangular")
WIDTHS = (0.05, 0.15, 0.5, 1.5, 5.0)
SEEDS = (0, 1, 2, 3, 4)
EPOCHS = 4
EXPLAINED = 32
RESULTS = Path(__file__).parent / "results" / "fidelity_trainability.json"


def network(seed: int, shape: str | None = None, width: float = 1.0) -> DigitsNet:
    torch.manual_seed(seed)
    neuron = {} if shape is None else {"surrogate": unit_area(shape, width)}
    return digits_net(timesteps=4, channels=6, **neuron)


def one_seed(seed: int) -> dict[str, Any]:
    data = load("digits", seed)
    images = torch.as_tensor(data.test_inputs[:EXPLAINED]).float()
    accuracies = []
    for shape in SHAPES:
        for width in WIDTHS:
            history = train(network(seed, shape, width), data, epochs=EPOCHS, seed=seed)
            accuracies.append(history.accuracies[-1])
    found: dict[str, Any] = {"seed": seed, "accuracy": accuracies}
    for when in ("before training", "after training"):
        model = network(seed)
        if when == "after training":
            train(model, data, epochs=EPOCHS, seed=seed)
        else:  # batch norm has to see the data once before it can be switched to eval
            with torch.no_grad():
                for part in torch.as_tensor(data.train_inputs[:512]).float().split(64):
                    model(part)
        curve = surrogate_fidelity(model.eval(), images, shapes=SHAPES, widths=WIDTHS)
        found[f"gap {when}"] = curve.table()["gap"].tolist()[1:]
    return found


def correlation(seeds: list[dict[str, Any]], when: str, chance: float = 0.0) -> dict[str, float]:
    """Return the mean rank correlation of -gap with accuracy, its error, and its p-value."""
    found = []
    for entry in seeds:
        gap, accuracy = np.array(entry[f"gap {when}"]), np.array(entry["accuracy"])
        kept = accuracy > chance
        if kept.sum() >= 4:
            found.append(stats.spearmanr(-gap[kept], accuracy[kept]).statistic)
    values = np.array(found)
    test = stats.ttest_1samp(values, 0.0)
    return {
        "mean": float(values.mean()),
        "standard error": float(values.std(ddof=1) / np.sqrt(len(values))),
        "p": float(test.pvalue),
        "seeds": len(values),
    }


def main() -> None:
    torch.set_num_threads(1)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"seeds": []}
    seeds = known["seeds"]
    began = time.perf_counter()
    for seed in track([s for s in SEEDS if s not in {e["seed"] for e in seeds}], "seeds"):
        seeds.append(one_seed(seed))
        RESULTS.write_text(json.dumps({"seeds": seeds}, indent=1))
    accuracy = np.array([entry["accuracy"] for entry in seeds])
    content = {
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "device": "cpu, one thread",
        "seconds": round(time.perf_counter() - began),
        "surrogates": [[shape, width] for shape in SHAPES for width in WIDTHS],
        "mean accuracy": accuracy.mean(0).round(4).tolist(),
        "correlation": {
            f"{when}, {name}": correlation(seeds, when, chance)
            for when in ("before training", "after training")
            for name, chance in (("all", 0.0), ("accuracy above 0.3", 0.3))
        },
        "seeds": seeds,
    }
    RESULTS.write_text(json.dumps(content, indent=1))
    print(json.dumps({k: content[k] for k in ("mean accuracy", "correlation")}, indent=1))


if __name__ == "__main__":
    main()
