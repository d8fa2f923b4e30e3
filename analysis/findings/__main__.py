"""Write the page of the catalogue: ``python -m spikescope.analysis.findings``."""

from __future__ import annotations

from .page import PAGE, page

PAGE.write_text(page(), encoding="utf-8")
print(f"written: {PAGE}")
