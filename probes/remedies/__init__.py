"""Published remedies that act while a model is trained; one file per remedy."""

from __future__ import annotations

from .base import LoopRemedy
from .table import LOOP_REMEDIES, attach_remedy

__all__ = ["LOOP_REMEDIES", "LoopRemedy", "attach_remedy"]
