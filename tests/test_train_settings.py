"""Settings of a training: from TOML and options, refused in one line that names them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from spikescope.analysis.surrogate import Surrogate
from spikescope.data.datasets import DATASETS
from spikescope.probes.models.catalogue import CONFIGURATIONS, build_network
from spikescope.probes.models.settings import (
    TrainSettings,
    override,
    read_settings,
    settings_from,
)

EXAMPLES = sorted((Path(__file__).parent / "benchmarks" / "configs").glob("*.toml"))
SHAPES = {
    "digits": (1, 8, 8),
    "sequential-digits": (8, 8),
    "randman": (50, 20),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "shd": (100, 700),
}


def written(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_sound(path):
    settings = read_settings(path)
    net = build_network(settings.network, SHAPES[settings.data], 10, **settings.network_arguments)
    assert sum(each.numel() for each in net.parameters()) > 1000


def test_the_examples_show_everything_there_is():
    settings = [read_settings(path) for path in EXAMPLES]
    assert {each.data for each in settings} == set(DATASETS) == set(SHAPES)
    families = {CONFIGURATIONS[each.network].family for each in settings}
    assert families >= {"vgg", "sew-resnet", "recurrent"}
    assert any(each.remedies for each in settings)
    assert {each.device for each in settings} == {"auto", "cuda"}


def test_a_file_says_everything(tmp_path):
    text = """
    network = "recurrent-small"
    data = "randman"
    data_dir = "somewhere"
    seed = 4
    epochs = 3
    batch_size = 16
    learning_rate = 1e-3
    device = "cpu"
    amp = true
    recommend = true
    record_every = 7
    checkpoint_every = 9
    threads = 2
    out = "elsewhere"
    [network_settings]
    units = [5, 6]
    surrogate = { shape = "triangular", width = 0.5 }
    [data_settings]
    classes = 3
    [remedies.mp_init]
    [remedies.sparsity]
    final_rate = 0.1
    """
    settings = read_settings(written(tmp_path, text))
    assert settings == TrainSettings(
        network="recurrent-small",
        data="randman",
        data_dir="somewhere",
        seed=4,
        epochs=3,
        batch_size=16,
        learning_rate=1e-3,
        device="cpu",
        amp=True,
        recommend=True,
        record_every=7,
        checkpoint_every=9,
        threads=2,
        out="elsewhere",
        network_settings={"units": [5, 6], "surrogate": {"shape": "triangular", "width": 0.5}},
        data_settings={"classes": 3},
        remedies={"mp_init": {}, "sparsity": {"final_rate": 0.1}},
    )
    default = TrainSettings()
    assert all(
        getattr(settings, each.name) != getattr(default, each.name) for each in fields(settings)
    )
    assert settings.network_arguments["surrogate"] == Surrogate("triangular", width=0.5)
    assert settings.name == "recurrent-small-randman-recommended-mp_init-sparsity-seed4"


def test_an_empty_file_is_the_defaults(tmp_path):
    assert read_settings(written(tmp_path, "")) == TrainSettings()


def test_options_replace_what_is_given():
    base = TrainSettings(epochs=5, amp=True)
    changed = override(base, epochs=2, amp=False, seed=None)
    assert (changed.epochs, changed.amp, changed.seed) == (2, False, 0)
    assert base.epochs == 5
    with pytest.raises(ValueError, match="epochs=0 is not possible"):
        override(base, epochs=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "setting 'epoch' is not one of 'network', 'data'"),
        ("[network]", "network={} is not one of"),
        ("[training]\nepochs = 3", "setting 'training' is not one of"),
        ('network = "vgg"', "network='vgg' is not one of 'digits-net', 'vgg-small'"),
        ('data = "mnst"', "data='mnst' is not one of 'digits'"),
        ('device = "tpu"', "device='tpu' is not one of 'auto', 'cpu', 'cuda'"),
        ("device = 1", "device=1 is not one of"),
        ("epochs = 0", "epochs=0 is not possible: it must be a whole number of at least 1"),
        ("epochs = 2.0", "epochs=2.0 is not possible"),
        ("epochs = true", "epochs=True is not possible"),
        ('batch_size = "64"', "batch_size='64' is not possible"),
        ("seed = -1", "seed=-1 is not possible: it must be a whole number of at least 0"),
        ("record_every = 0", "record_every=0 is not possible"),
        ("checkpoint_every = 0", "checkpoint_every=0 is not possible"),
        ("threads = 0", "threads=0 is not possible"),
        ("learning_rate = 0", "learning_rate=0 is not possible: it must be a number above 0"),
        ("learning_rate = nan", "learning_rate=nan is not possible"),
        ("learning_rate = inf", "learning_rate=inf is not possible"),
        ("learning_rate = true", "learning_rate=True is not possible"),
        ('amp = "yes"', "amp='yes' is not possible: it must be true or false"),
        ("recommend = 1", "recommend=1 is not possible: it must be true or false"),
        ("out = 3", "out=3 is not possible: it must be a text"),
        ("data_dir = []", r"data_dir=\[\] is not possible: it must be a text"),
        ("network_settings = 3", r"network_settings=3 is not possible.*\[network_settings\]"),
        ("remedies = ['trsg']", r"remedies=\['trsg'\] is not possible: it must be a table"),
        ("[remedies.mpinit]", "remedy='mpinit' is not one of 'mp_init'"),
        ("[remedies]\ntrsg = true", r"remedies.trsg=True is not possible.*\[remedies.trsg\]"),
        ("[network_settings]\nsurrogate = 'arctan'", "surrogate='arctan' is not possible"),
        (
            "[network_settings.surrogate]\nheight = 1",
            "setting of a surrogate 'height' is not one of 'shape', 'peak', 'width', 'tail'",
        ),
        ("[network_settings.surrogate]\nshape = 'step'", "shape='step' is not one of"),
        ("[network_settings.surrogate]\nwidth = 0.0", "width"),
        ("epochs = ", "is no TOML file"),
        ("\x00", "is no TOML file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)
    assert "config.toml" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.toml"):
        read_settings(tmp_path / "none.toml")


def test_settings_survive_their_way_through_a_checkpoint():
    settings = TrainSettings(network_settings={"surrogate": {"width": 0.4}}, remedies={"trsg": {}})
    kept = {each.name: getattr(settings, each.name) for each in fields(settings)}
    assert settings_from(kept) == settings
