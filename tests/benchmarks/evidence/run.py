"""Run the studies and write EVIDENCE.md: ``python tests/benchmarks/evidence/run.py [--quick]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evidence.command import main

if __name__ == "__main__":
    sys.exit(main())
