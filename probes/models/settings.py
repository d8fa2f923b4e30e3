"""The settings of a training: from a TOML file and from options, checked before anything runs."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ...analysis.surrogate import Surrogate
from ...data.datasets import DATASETS

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainSettings:
    """What ``spikescope train`` does; the same names stand in a TOML file.

    Args:
        network: a name in :data:`~spikescope.probes.models.catalogue.CONFIGURATIONS`.
        data: a name in :data:`~spikescope.data.datasets.DATASETS`.
        data_dir: folder of the data sets that come in files; empty for none.
        seed: of split, weights and order.
        epochs: passes through the training part.
        batch_size: samples per optimiser step.
        learning_rate: of Adam; falls to 0 along a cosine.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        amp: mixed precision (bfloat16) in the forward pass.
        recommend: whether what ``spikescope.recommend`` proposes is applied before the training.
        record_every: distance between recorded steps.
        checkpoint_every: steps between checkpoints.
        threads: CPU threads; more than one helps large networks only.
        out: folder that the run's folder is made in.
        network_settings: arguments of the network in place of its configuration's, and of its
            neurons; ``surrogate`` is a table with shape, peak and width.
        data_settings: arguments of the data set.
        remedies: for each remedy by name a table of its settings.

    Raises:
        ValueError: a value that is not possible.

    Example:
        >>> TrainSettings(epochs=0)
        Traceback (most recent call last):
        ValueError: epochs=0 is not possible: it must be a whole number of at least 1
    """

    network: str = "vgg-small"
    data: str = "digits"
    data_dir: str = ""
    seed: int = 0
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 5e-3
    device: str = "auto"
    amp: bool = False
    recommend: bool = False
    record_every: int = 10
    checkpoint_every: int = 200
    threads: int = 1
    out: str = "runs"
    network_settings: dict[str, Any] = field(default_factory=dict)
    data_settings: dict[str, Any] = field(default_factory=dict)
    remedies: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from ..remedies import LOOP_REMEDIES
        from .catalogue import CONFIGURATIONS

        for name in ("epochs", "batch_size", "record_every", "checkpoint_every", "threads"):
            _require_whole(name, getattr(self, name), 1)
        _require_whole("seed", self.seed, 0)
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ValueError(f"learning_rate={rate!r} is not possible: it must be a number above 0")
        for name in ("amp", "recommend"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not possible: it must be true or false"
                )
        for name in ("data_dir", "out"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not possible: it must be a text"
                )
        choices = {"network": CONFIGURATIONS, "data": DATASETS, "device": DEVICES}
        for name, possible in choices.items():
            _require_one_of(name, getattr(self, name), possible)
        for name in ("network_settings", "data_settings", "remedies"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not possible: it must be a table [{name}]"
                )
        for remedy, settings in self.remedies.items():
            _require_one_of("remedy", remedy, LOOP_REMEDIES)
            if not isinstance(settings, dict):
                raise ValueError(
                    f"remedies.{remedy}={settings!r} is not possible: it must be a table "
                    f"[remedies.{remedy}]"
                )
        _ = self.network_arguments  # refuses a surrogate that is none

    @property
    def network_arguments(self) -> dict[str, Any]:
        """The network's settings with the surrogate as an object."""
        given = dict(self.network_settings)
        table = given.get("surrogate")
        if table is None:
            return given
        if not isinstance(table, dict):
            raise ValueError(
                f"surrogate={table!r} is not possible: it must be a table with shape, peak, width"
            )
        possible = [each.name for each in fields(Surrogate)]
        for name in table:
            _require_one_of("setting of a surrogate", name, possible)
        return {**given, "surrogate": Surrogate(**table)}

    @property
    def name(self) -> str:
        """Name of the run, as far as these settings tell it from others."""
        advised = ["recommended"] if self.recommend else []
        return "-".join([self.network, self.data, *advised, *self.remedies, f"seed{self.seed}"])


def read_settings(path: str | Path) -> TrainSettings:
    """Read the settings of a training from a TOML file.

    Args:
        path: the file; what it does not name has its default.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML, names a setting that there is not, or gives one an impossible
            value; the message names file and setting.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "config.toml"
        >>> _ = path.write_text('data = "randman"')
        >>> read_settings(path).data
        'randman'
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}: name a TOML file of settings")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is no TOML file: {error}") from error
    try:
        return settings_from(content)
    except ValueError as error:
        raise ValueError(f"in {str(path)!r}: {error}") from error


def settings_from(content: Mapping[str, Any]) -> TrainSettings:
    """Make settings of named values.

    Raises:
        ValueError: a name that there is not, or an impossible value.

    Example:
        >>> settings_from({"epoch": 3})
        Traceback (most recent call last):
        ValueError: setting 'epoch' is not one of 'network', 'data', 'data_dir', 'seed', \
'epochs', 'batch_size', 'learning_rate', 'device', 'amp', 'recommend', 'record_every', \
'checkpoint_every', 'threads', 'out', 'network_settings', 'data_settings', 'remedies'
    """
    possible = [each.name for each in fields(TrainSettings)]
    for name in content:
        _require_one_of("setting", name, possible)
    return TrainSettings(**content)


def override(settings: TrainSettings, **values: Any) -> TrainSettings:
    """Return settings with some values replaced; None leaves a value as it is.

    Example:
        >>> override(TrainSettings(), epochs=3, seed=None).epochs
        3
    """
    return replace(settings, **{name: value for name, value in values.items() if value is not None})


def _require_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name}={value!r} is not possible: it must be a whole number of at least {least}"
        )


def _require_one_of(name: str, value: Any, possible: Any) -> None:
    if value not in list(possible):  # a list, because a table from a file has no hash
        said = ", ".join(map(repr, possible))
        joint = "=" if " " not in name and name != "setting" else " "
        raise ValueError(f"{name}{joint}{value!r} is not one of {said}")
