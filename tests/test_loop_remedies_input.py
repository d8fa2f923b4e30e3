"""What remedies in the loop refuse: one line each, and the model as it was."""

from __future__ import annotations

import pytest
import torch
from loop_cases import CASES, attach, batches, build, copied, differing
from torch import nn

from spikescope.probes.lif import LIF
from spikescope.probes.remedies import attach_remedy

BAD = {
    "unknown remedy": ("trgs", {}, "remedy='trgs' is not one of mp_init"),
    "unknown setting": ("trsg", {"shape": 1}, "no setting 'shape': it has form|no setting 'shape'"),
    "missing settings": ("sparsity", {"epochs": 3}, "needs final_rate, steps_per_epoch"),
    "no timesteps": ("atgo", {}, "give timesteps=T"),
    "timesteps 0": ("atgo", {"timesteps": 0}, "timesteps=0 is not possible"),
    "timesteps True": ("atgo", {"timesteps": True}, "timesteps=True is not possible"),
    "momentum": ("atgo", {"timesteps": 2, "momentum": 1.5}, "momentum=1.5 is not possible"),
    "momentum NaN": ("atgo", {"timesteps": 2, "momentum": float("nan")}, "momentum=nan"),
    "k0": ("atgo_width", {"k0": -1.0}, "k0=-1.0 is not possible: it must be above 0"),
    "driver": ("atgo", {"timesteps": 2, "follows": "mean"}, "follows='mean' is not one of"),
    "form": ("mp_init", {"form": "x"}, "form='x' is not one of 'released', 'paper'"),
    "over": ("mp_init", {"over": "x"}, "over='x' is not one of"),
    "threshold": ("trsg", {"threshold": -0.5}, "threshold=-0.5 of layer 'low' cannot be learned"),
    "surrogate": ("trsg", {"surrogate": "arctan"}, "surrogate='arctan' is not possible"),
    "rate": ("sparsity", {"final_rate": 2, "epochs": 1, "steps_per_epoch": 1}, "final_rate=2"),
    "schedule": (
        "sparsity",
        {"final_rate": 0.1, "epochs": 1, "steps_per_epoch": 1, "schedule": "cosine"},
        "schedule='cosine' is not one of",
    ),
    "bound": ("count_bound", {"bound": -2.0}, "bound=-2.0 is not possible"),
    "unknown layer": ("trsg", {"layers": ["mid"]}, "'mid' cannot take remedy.*'low', 'high'"),
    "layers as text": ("trsg", {"layers": "low"}, "layers='low' is not possible"),
    "no norm": ("agl", {}, "layer 'low': none of BatchNorm1d.* stands before it"),
    "xi": ("fluctuation_init", {"rate": 0.2, "xi": -1.0}, "layer 'low': xi=-1.0"),
    "rates": ("fluctuation_init", {"rate": {"low": 0.2}}, "rate for 'low' does not fit"),
    "rate 0": ("fluctuation_init", {"rate": 0.0}, "rate=0.0 is not possible"),
    "mean": ("fluctuation_init", {"rate": 0.01, "mean": 0.39}, "leaves no spread"),
    "target": ("stability_init", {"target_rate": 1.0}, "target_rate=1.0 is not possible"),
    "no recurrent": ("stability_init", {"published": True}, "say which with recurrent="),
    "recurrent": (
        "stability_init", {"recurrent": {"low": "second"}}, "is not recurrent: it must be a square"
    ),
    "weights": ("fluctuation_init", {"rate": 0.1, "weights": {"low": "low"}}, "give a spiking"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_refused_in_one_line(case: str) -> None:
    name, settings, message = BAD[case]
    net = build("trsg")
    before, text = copied(net.state_dict()), str(net)
    with pytest.raises(ValueError, match=message) as caught:
        attach_remedy(name, net, **settings)
    assert "\n" not in str(caught.value)
    assert differing(before, net.state_dict()) == []
    assert str(net) == text
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("name", CASES)
def test_a_model_without_spiking_layers_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no layer of the model can take remedy '{name}'"):
        attach(name, nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(ValueError, match="is not a torch module"):
        attach(name, "model")


def test_what_the_parts_of_a_model_do_not_allow_is_refused() -> None:
    def message(name: str, model: nn.Module, **settings: object) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            attach_remedy(name, model, **settings)
        return str(caught.value)

    dense = nn.Sequential(nn.Linear(2, 2, bias=False), LIF())
    assert "'0' has no bias" in message("stability_init", dense)
    normed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), LIF())
    assert "'1' normalises" in message("fluctuation_init", normed, rate=0.1)
    two = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2), LIF())
    assert "'1', '2' all stand before it; say which with norms=" in message("agl", two)
    plain = nn.Sequential(nn.BatchNorm1d(2, affine=False), LIF())
    assert "has no gamma to read" in message("agl", plain)
    forgetful = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), LIF())
    assert "keeps no running statistics" in message("agl", forgetful)
    negative = nn.Sequential(nn.BatchNorm1d(2), LIF())
    with torch.no_grad():
        negative[0].weight.fill_(-1.0)
    assert "gbar=-1.0 of 1 gives no window" in message("agl", negative)
    assert "decay=0.0 of layer '0' cannot be learned" in message(
        "trsg", nn.Sequential(LIF(decay=0.0))
    )
    assert "decay" not in str(
        attach_remedy("trsg", nn.Sequential(LIF(decay=0.0)), learn_decay=False)
    )
    silent = nn.Sequential(LIF(threshold=float("inf"), reset="none"))
    assert "threshold=inf" in message("trsg", silent)
    assert "threshold=inf" in message("atgo", silent, timesteps=2)
    units = nn.Sequential(LIF())
    units[0].start = torch.zeros(3)
    assert "a start potential per unit, of shape (3,)" in message("mp_init", units)


def test_more_timesteps_than_trained_are_refused() -> None:
    net = build("atgo")
    attach_remedy("atgo", net, timesteps=3)
    with pytest.raises(ValueError, match=r"layer 'low' is at timestep 4.*timesteps=3"):
        net(batches(1)[0])
