"""Check the two runs that the demo left: whole, recorded everywhere, and the second one better."""

import sys
from pathlib import Path

import spikescope

folder = Path(sys.argv[1])
accuracies = []
for name in ("as-set-up", "recommended"):
    run = spikescope.open_run(folder / name)
    table = run.table(mode="train")
    assert run.state == "finished", run.state
    assert not run.problems, run.problems
    assert len(run.covered) == 6, run.layers
    assert set(table["t"]) == {1, 2, 3, 4, 5, 6}
    assert table["mismatch"].sum() == 0
    assert (table["count"] > 0).all()
    assert table["grad_u_rms"].notna().all()
    accuracies.append(run.scalars()["accuracy"].dropna().iloc[-1])
before, after = accuracies
assert after >= 0.8, accuracies
assert after >= before + 0.3, accuracies
gravest = {f.severity for f in spikescope.diagnose(spikescope.open_run(folder / "as-set-up"))}
assert "error" in gravest, gravest
print(f"runs checked: accuracy {before:.1%} as set up, {after:.1%} recommended")
