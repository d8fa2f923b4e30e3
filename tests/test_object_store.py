"""A run in an S3 bucket, against a stand-in server in this process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_ranks as ranks
import torch
from launching import Family
from torch import nn

import spikescope
from spikescope.data import remote
from spikescope.probes.lif import LIF

pytest.importorskip("s3fs", reason="s3fs is not installed")
server = pytest.importorskip("moto.server", reason="moto is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    import boto3

    standing = server.ThreadedMotoServer(port=0, verbose=False)
    standing.start()
    _, port = standing.get_host_and_port()
    address = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
            "FSSPEC_S3_ENDPOINT_URL": address,
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="runs")
        yield "s3://runs"
    standing.stop()


def train(path: str, steps: int, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), LIF())
    with spikescope.watch(model, path, every=2, **settings) as probe:
        for step in range(steps):
            model(torch.randn(3, 5, 4)).sum().backward()
            probe.step(loss=float(step))
    return probe


def test_a_run_is_written_read_and_resumed_in_a_bucket(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REFRESH_SECONDS", 0.0)
    address = f"{bucket}/project/a"
    assert train(address, 5).path == address
    run = spikescope.open_run(address)
    assert run.state == "finished"
    assert sorted(set(run.table()["step"])) == [0, 2, 4]
    assert run.scalars()["loss"].tolist() == [0, 1, 2, 3, 4]
    train(address, 3, resume=True)
    assert sorted(set(run.table()["step"])) == [0, 2, 4, 6]
    with pytest.warns(spikescope.SpikescopeWarning, match="exists and is kept"):
        assert train(address, 1).path == f"{address}-2"


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    with pytest.warns(spikescope.SpikescopeWarning, match="recording stopped"):
        assert not train("s3://nobody/a", 2).active


def test_several_ranks_write_to_a_bucket(bucket: str, tmp_path: Path) -> None:
    with Family("s3fs", "boto3") as family:
        done = ranks.train(family, tmp_path, 1, "alone")
        assert done.returncode == 0, done.stderr
        alone = spikescope.open_run(tmp_path / "run")
        for first in (0, 4):
            done = ranks.train(family, tmp_path, 2, "ddp", first=first, runs=f"{bucket}/ranks")
            assert done.returncode == 0, done.stderr
            assert "SpikescopeWarning" not in done.stderr
        run = spikescope.open_run(f"{bucket}/ranks/run")
        ranks.assert_same(run, alone)
        assert run.state == "finished"
    assert run.header["resumed"] == [4]
    assert run.header["ranks"] == {"recorded": [0, 1], "of": 2}
