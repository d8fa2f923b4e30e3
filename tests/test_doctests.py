"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import spikescope

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(spikescope.__path__, "spikescope.")
    if not info.name.startswith(("spikescope.tests", "spikescope.build", "spikescope.__main__"))
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    if name.startswith("spikescope.probes.kernels_"):
        pytest.importorskip("triton", reason="the kernels are written in Triton")
    module = importlib.import_module(name)
    failures, _ = doctest.testmod(module)
    assert failures == 0


def test_there_are_examples_and_a_wrong_one_fails() -> None:
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(name) for name in MODULES if "kernels_" not in name]
    assert sum(len(test.examples) for module in modules for test in finder.find(module)) > 100
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner(verbose=False).run(wrong, out=lambda text: None).failed == 1
