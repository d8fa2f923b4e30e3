"""Write the page of the catalogue: ``python -m spikescope.analysis.findings``."""

from __future__ import annotations

from .page import PAGE, page

if __name__ == "__main__":  # not where a module is only looked at
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")
