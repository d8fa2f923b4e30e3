"""The table of imports holds, and what must load without torch does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spikescope

PACKAGE = Path(spikescope.__file__).parent
FOLDERS = ("analysis", "dashboard", "data", "probes")

MAY_IMPORT = {
    "data": {"data"},
    "analysis": {"analysis", "data"},
    "probes": {"probes", "analysis", "data"},
    "dashboard": {"dashboard", "analysis", "data"},
}
NO_TORCH = {"data", "analysis", "dashboard"}
TORCH_ALLOWED_IN = {"analysis/attribution.py"}


def sources(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def imports(source: str, path: Path) -> Iterator[tuple[str, int]]:
    """Yield (dotted name from the package root or of a foreign module, line) of every import."""
    package = ("spikescope", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module or "").split(".") if node.module else ())))
            for alias in node.names:
                yield f"{module}.{alias.name}", node.lineno


def violations(folder: str, path: Path, source: str) -> list[str]:
    found = []
    for name, line in imports(source, path):
        parts = name.split(".")
        where = f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        if parts[0] == "spikescope" and len(parts) > 1 and parts[1] in FOLDERS:
            if parts[1] not in MAY_IMPORT[folder]:
                found.append(where)
        elif parts[0] in FOLDERS:
            found.append(f"{where}: a bare folder name is a second copy of the package")
        elif parts[0] in ("torch", "captum") and folder in NO_TORCH:
            if str(path.relative_to(PACKAGE)) not in TORCH_ALLOWED_IN:
                found.append(where)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_import_what_they_may(folder: str) -> None:
    assert sources(folder)
    found = [
        entry
        for path in sources(folder)
        for entry in violations(folder, path, path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("data", "from ..analysis import neuron"),
        ("data", "import torch"),
        ("analysis", "from ..probes.probe import watch"),
        ("analysis", "from ..dashboard import figures"),
        ("analysis", "def f():\n    import torch.nn"),
        ("dashboard", "from ..probes import lif"),
        ("dashboard", "from spikescope.probes import lif"),
        ("probes", "from ..dashboard import figures"),
        ("probes", "from data import schema"),
    ],
)
def test_a_forbidden_import_is_seen(folder: str, line: str) -> None:
    assert violations(folder, PACKAGE / folder / "made_up.py", line)


def test_imports_inside_the_package_are_relative() -> None:
    for folder in FOLDERS:
        for path in sources(folder):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names.append(node.module or "")
                assert not [n for n in names if n.split(".")[0] == "spikescope"], path


LOADS = "import sys; {statement}; print(*(m for m in {names!r} if m in sys.modules))"


def loaded(statement: str, *names: str) -> set[str]:
    """Return which modules a fresh interpreter holds after a statement."""
    code = LOADS.format(statement=statement, names=names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_spikescope_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pandas", "scipy", "plotly", "dash", "pyarrow")
    assert loaded("import spikescope", *heavy) == set()
    assert loaded("import spikescope; spikescope.open_run", *heavy) >= {"pandas", "pyarrow"}


@pytest.mark.parametrize(
    "statement",
    [
        "import spikescope; spikescope.open_run, spikescope.diagnose",
        "import pkgutil, importlib, spikescope.analysis as a; "
        "[importlib.import_module('spikescope.analysis.' + i.name) for i in "
        "pkgutil.iter_modules(a.__path__) if i.name != 'attribution']",
        "import pkgutil, importlib, spikescope.dashboard as a; "
        "[importlib.import_module('spikescope.dashboard.' + i.name) for i in "
        "pkgutil.iter_modules(a.__path__)]",
        "import spikescope.cli",
    ],
)
def test_theory_dashboard_and_command_load_without_torch(statement: str) -> None:
    assert loaded(statement, "torch") == set()


def test_recording_loads_without_the_dashboard() -> None:
    statement = "import spikescope; spikescope.watch"
    assert loaded(statement, "torch", "plotly", "dash", "sklearn") == {"torch"}


def test_the_check_sees_torch() -> None:
    assert loaded("import torch", "torch") == {"torch"}


def test_public_names_resolve_and_an_unknown_one_says_which_exist() -> None:
    for name in spikescope.__all__:
        assert getattr(spikescope, name) is not None
        assert name in dir(spikescope)
    with pytest.raises(AttributeError, match=r"no attribute 'wacth'; it has .*watch"):
        spikescope.wacth  # noqa: B018


def test_every_public_name_has_a_docstring_with_an_example() -> None:
    for name in ("watch", "open_run"):
        assert ">>>" in (getattr(spikescope, name).__doc__ or ""), name
