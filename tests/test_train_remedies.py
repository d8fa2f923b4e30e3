"""Every remedy takes part in the training of a reference network, with a probe attached."""

from __future__ import annotations

import io
import warnings
from itertools import cycle

import numpy as np
import pytest
import torch
from rich.console import Console

from spikescope import SpikescopeWarning, open_run
from spikescope.probes.models.checkpoint import load_checkpoint
from spikescope.probes.models.session import run_training
from spikescope.probes.models.settings import TrainSettings
from spikescope.probes.remedies import LOOP_REMEDIES

NEEDS = {
    "sparsity": {"final_rate": 0.02},
    "count_bound": {"bound": 0.0},
    "fluctuation_init": {"rate": 0.1},
    "stability_init": {"target_rate": 0.2},
}
WITHOUT_NORM = {"fluctuation_init", "stability_init"}  # a norm would undo what they set
NETWORKS = {
    "recurrent-small": {
        "data": "randman",
        "network_settings": {"units": 6, "decay": 0.9},
        "data_settings": {"classes": 2, "units": 5, "timesteps": 6, "samples": 10},
    },
    "vgg-small": {
        "data": "digits",
        "network_settings": {"channels": 2, "timesteps": 2},
        "data_settings": {"test_share": 0.95},
    },
    "sew-small": {
        "data": "digits",
        "network_settings": {"blocks": [1, 1], "widths": [2, 3], "timesteps": 2},
        "data_settings": {"test_share": 0.95},
    },
}


def trained(tmp_path, network, remedies):
    case = NETWORKS[network]
    norm = "none" if remedies.keys() & WITHOUT_NORM else "tdbn"
    settings = TrainSettings(
        **{**case, "network_settings": {**case["network_settings"], "norm": norm}},
        network=network,
        epochs=2,
        batch_size=45,
        device="cpu",
        record_every=1,
        remedies=remedies,
        out=str(tmp_path / "runs"),
    )
    return run_training(settings, Console(file=io.StringIO()))


# Each remedy on one network, in turn: three times as many pairs tell little more.
PAIRS = list(zip(LOOP_REMEDIES, cycle(NETWORKS), strict=False))


@pytest.mark.parametrize(("remedy", "network"), PAIRS)
def test_every_remedy_takes_part(tmp_path, remedy, network):
    with warnings.catch_warnings():
        # What a remedy has to say about so short a training is its own tests' business.
        warnings.filterwarnings("ignore", category=SpikescopeWarning)
        outcome = trained(tmp_path, network, {remedy: NEEDS.get(remedy, {})})
    assert outcome.finished
    content = load_checkpoint(outcome.path / "checkpoint.pt")["training"]
    assert np.isfinite(content["history"]["losses"]).all()
    tensors = [each for each in content["model"].values() if torch.is_tensor(each)]
    assert all(torch.isfinite(each).all() for each in tensors)
    run = open_run(outcome.path)
    assert len(run.covered) == len(run.layers)  # the probe follows what the remedy changes
    assert run.table(["mismatch"])["mismatch"].sum() == 0


def test_what_does_not_fit_is_said_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="norm") as caught:
        trained(tmp_path, "vgg-small", {"fluctuation_init": {"rate": 0.1}, "agl": {}})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
