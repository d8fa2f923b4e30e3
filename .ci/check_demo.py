"""Check the run that the demo left: whole, accurate, recorded at every layer and timestep."""

import sys

import spikescope

run = spikescope.open_run(sys.argv[1])
table = run.table(mode="train")
accuracy = run.scalars()["accuracy"].dropna().iloc[-1]
assert run.state == "finished", run.state
assert not run.problems, run.problems
assert len(run.covered) >= 6, run.layers
assert set(table["t"]) == {1, 2, 3, 4, 5, 6}
assert table["mismatch"].sum() == 0
assert (table["count"] > 0).all()
assert table["grad_u_rms"].notna().all()
assert accuracy >= 0.9, accuracy
print(f"run checked: {len(table)} rows, accuracy {accuracy:.1%}, state {run.state}")
