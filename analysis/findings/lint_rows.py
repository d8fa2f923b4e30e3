"""The rows of the catalogue that the lint of a live model fills: S1 to S9."""

from __future__ import annotations

from .types import Severity

LINT: dict[str, tuple[str, str, Severity, str]] = {
    "S1": (
        "surrogate not finite",
        "Is its derivative a number everywhere?",
        "error",
        "A gentler slope, or float64: the exponential overflows.",
    ),
    "S2": (
        "surrogate zero around the threshold",
        "Does any gradient pass near the threshold?",
        "error",
        "A surrogate that is not 0 there, or a wider one.",
    ),
    "S3": (
        "surrogate negative",
        "Does the gradient point the right way?",
        "error",
        "The derivative of the surrogate, not the surrogate.",
    ),
    "S4": (
        "surrogate off the threshold",
        "Is its middle at the threshold?",
        "warning",
        "Give it u - threshold.",
    ),
    "S5": (
        "surrogate not largest at the threshold",
        "Is the derivative largest at the threshold?",
        "warning",
        "A bump at the threshold.",
    ),
    "S6": (
        "surrogate not as declared",
        "Is it the one that the layer's settings say?",
        "error",
        "Mend the layer, or set what it really does.",
    ),
    "S7": (
        "surrogate of no known shape",
        "Can coverage and self-check be recorded?",
        "note",
        "None is needed: they are left out.",
    ),
    "S8": (
        "surrogate shared by layers",
        "Does each layer have a surrogate of its own?",
        "note",
        "Give each layer its own object before you change one.",
    ),
    "S9": (
        "surrogate cannot be measured",
        "Does its spike function work on a grid of potentials?",
        "warning",
        "Make the spike function take tensors of any shape.",
    ),
}
"""Code to title, question, severity and remedy."""
