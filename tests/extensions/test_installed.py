"""Installed packages: their entry points are names of settings."""

import sys
from pathlib import Path

import pytest

from charjax.config import load_config
from charjax.errors import UserError
from charjax.extensions import find_object, versions_of
from charjax.extensions.installed import installed
from charjax.init import find_scheme, scheme_numbers
from charjax.training.own_optimizer import own_direction
from tests import own

POINTS = """\
[charjax.schemes]
mine = charjax_tests_mine:scheme
broken = charjax_tests_mine:nothing

[charjax.optimizers]
mylion = charjax_tests_mine:make
adamw = charjax_tests_mine:make

[charjax.activations]
mysine = charjax_tests_mine:act

[charjax.models]
pair = charjax_tests_mine:Pair
"""


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own.write(tmp_path, name="charjax_tests_mine.py")
    folder = tmp_path / "charjax_tests_mine-1.5.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: charjax-mine\nVersion: 1.5\n")
    (folder / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    yield
    installed.cache_clear()
    sys.modules.pop("charjax_tests_mine", None)


def test_names_of_all_four_settings() -> None:
    words = ["init.scheme=mine", "init.std=0.2", "optim.kind=mylion", "model.kind=pair"]
    config = load_config(None, [*words, "model.d_hidden=12"])
    assert config.model.model_dump()["d_hidden"] == 12
    assert find_scheme(config.init).source == "mine"
    assert scheme_numbers("mine") == ("gain", "std")
    assert load_config(None, ["model.kind=mlp", "model.activation=mysine"]).digest()


def test_the_packages_version_is_kept_with_the_run() -> None:
    config = load_config(None, ["optim.kind=mylion"])
    assert own_direction(config.optim)
    assert versions_of(config.model_dump()) == {"package of optim.kind": "charjax-mine 1.5"}


def test_charjaxs_own_names_come_first() -> None:
    config = load_config(None, ["optim.kind=adamw"])
    assert versions_of(config.model_dump()) == {}


def test_what_cannot_be_imported_is_one_line() -> None:
    message = "a scheme of the installed package charjax-mine 1.5, whose .* cannot be imported"
    with pytest.raises(UserError, match=message):
        find_object("init.scheme", "broken")
