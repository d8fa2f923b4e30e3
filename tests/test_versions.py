"""A version outside the tested range is said, with both; inside it nothing is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import spikescope
from spikescope.probes import session
from spikescope.probes.adapters import ADAPTERS
from spikescope.probes.adapters.adapter_spikescope import SpikescopeAdapter
from spikescope.probes.lif import LIF
from spikescope.probes.versions import untested, versions


class Tested(SpikescopeAdapter):
    framework = "somewhere"
    tested = ("0.9.4", "1.0.0")


@pytest.mark.parametrize("version", ["0.9.4", "0.10", "1.0.0", "0.9.4.post1", "1.0.0rc1"])
def test_inside_the_range(version: str) -> None:
    assert untested(Tested(), version) is None


@pytest.mark.parametrize("version", ["0.9.3", "1.0.1", "2", "0.6.4", None, "dev"])
def test_outside_the_range(version: str | None) -> None:
    sentence = untested(Tested(), version)
    assert sentence is not None
    assert "0.9.4 to 1.0.0" in sentence
    assert (version or "unknown version") in sentence
    assert "\n" not in sentence


def test_every_framework_says_what_was_tested() -> None:
    for adapter in ADAPTERS:
        assert (adapter.tested is None) == (adapter.framework == "spikescope")


def test_the_probe_warns_and_records_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "installed", lambda name: "3.0")
    monkeypatch.setattr(SpikescopeAdapter, "tested", ("1.0", "2.0"))
    model = nn.Sequential(nn.Linear(3, 4), LIF(), nn.Linear(4, 2), LIF())
    with (
        pytest.warns(spikescope.SpikescopeWarning, match="3.0 is outside the tested") as warned,
        spikescope.watch(model, tmp_path / "run", every=1) as probe,
    ):
        model(torch.ones(2, 5, 3)).sum().backward()
        probe.step()
    assert len(warned) == 1  # once, not for each layer
    run = spikescope.open_run(tmp_path / "run")
    assert len(run.table()) == 4
    assert "version of spikescope" in set(run.events()["kind"])


def test_header_names_the_framework_only_if_it_is_used() -> None:
    class Numpy(SpikescopeAdapter):
        framework = "hypothesis"  # installed with the tests

    assert "hypothesis" not in versions([])
    assert "hypothesis" in versions([Numpy()])
    assert {"python", "torch", "spikescope"} <= versions([]).keys()
