"""Several processes for a test: started by torchrun, or forked from one that has all loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

PATIENCE = 200.0
"""Seconds after which processes that have not ended are killed."""

FORKING = """
import importlib, json, os, runpy, signal, sys
import torch
from torch.distributed import TCPStore, fsdp
import spikescope.probes.lif
for name in ["spikescope.probes.probe", *sys.argv[1:]]:
    importlib.import_module(name)
children = []

def fork(log):
    if child := os.fork():
        children.append(child)
        return False
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(log, os.O_CREAT | os.O_WRONLY, 0o600)
    os.dup2(log, 1), os.dup2(log, 2)
    return True

def together(log, script, world, arguments):
    sys.argv = [script, *arguments]
    if world > 1:  # the store is in a process of its own, as torchrun has it
        hear, tell = os.pipe()
        if fork(f"{log}.store"):
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            os.write(tell, str(store.port).encode())
            signal.pause()
        host = children.pop()
        os.close(tell)
        port = os.read(hear, 20).decode()
        os.close(hear)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE=str(world))
        os.environ.update(TORCHELASTIC_RUN_ID="one", TORCHELASTIC_RESTART_COUNT="0")
        os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True")
    for rank in range(world):
        if world > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        if fork(f"{log}.{rank}"):
            runpy.run_path(script, run_name="__main__")
            sys.exit()
    status = 0
    while children:
        child, ended = os.wait()
        children.remove(child)
        if ended and not status:  # the others may wait for it for ever
            status = ended
            for other in children:
                os.kill(other, signal.SIGTERM)
    if world > 1:
        os.kill(host, signal.SIGKILL)
        os.waitpid(host, 0)
    return status

for line in sys.stdin:
    before = dict(os.environ)
    print(together(*json.loads(line)), flush=True)
    os.environ.clear()
    os.environ.update(before)
"""


def torchrun(script: Path, world: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in several processes; it finds what lies beside the tests."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1"]
    command += [f"--nproc-per-node={world}", "--local-addr=127.0.0.1"]
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [*command, str(script), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


class Family:
    """Forks the processes of each run from one that has loaded torch and spikescope.

    Loading takes longer than what most scripts then do. The processes get from their environment
    what torchrun would tell them.

    Args:
        load: modules to load beforehand, too.
    """

    def __init__(self, *load: str) -> None:
        self._load = load

    def __enter__(self) -> Family:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKING, *self._load],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=pipe,
            stdout=pipe,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def __call__(
        self, script: Path, world: int, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script in several processes.

        Args:
            script: its path.
            world: number of processes.
            arguments: its arguments.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        log = f"{script}.log"
        for old in script.parent.glob(f"{script.name}.log.*"):
            old.unlink()
        watch = threading.Timer(PATIENCE, self._process.kill)
        watch.start()
        self._process.stdin.write(json.dumps([log, str(script), world, arguments]) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline() or -1)
        watch.cancel()
        said = "".join(Path(f"{log}.{rank}").read_text() for rank in range(world))
        return subprocess.CompletedProcess([str(script)], status, "", said)
