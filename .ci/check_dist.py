"""Check that wheel and sdist were built from the same files and hold every part of the package."""

import sys
import tarfile
import zipfile
from pathlib import Path

dist = Path(sys.argv[1])
wheel = set(zipfile.ZipFile(next(dist.glob("*.whl"))).namelist())
sdist = {name.partition("/")[2] for name in tarfile.open(next(dist.glob("*.tar.gz"))).getnames()}
checkout = {
    str(path)
    for folder in ("analysis", "dashboard", "data", "probes")
    for path in Path(folder).rglob("*")
    if path.is_file() and (path.suffix == ".py" or "assets" in path.parts)
} | {"py.typed", *map(str, Path(".").glob("*.py"))}
missing = {f"wheel: {name}" for name in checkout if f"spikescope/{name}" not in wheel}
missing |= {f"sdist: {name}" for name in checkout if name not in sdist}
extra = {name for name in wheel if not name.startswith("spikescope/") and ".dist-info/" not in name}
assert not missing, sorted(missing)
assert not extra, sorted(extra)
assert any(name.endswith("licenses/LICENSE") for name in wheel)
print(f"{len(wheel)} files in the wheel, {len(sdist)} in the sdist")
