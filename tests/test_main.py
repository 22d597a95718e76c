"""`charjax COMMAND` is `python -m charjax.COMMAND`, under one name."""

import importlib
import importlib.machinery
import sys
import types

import pytest

from charjax import __main__ as charjax_command
from charjax import __version__
from charjax.errors import UserError


@pytest.mark.parametrize("name", charjax_command.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        charjax_command.main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize(
    ("module", "usage"),
    [
        (None, "charjax initlab probe"),
        ("pytest.__main__", "charjax initlab probe"),
        ("charjax.__main__", "python -m charjax initlab probe"),
        ("charjax.initlab.__main__", "python -m charjax.initlab probe"),
    ],
)
def test_usage_is_the_command_as_it_was_called(
    module: str | None,
    usage: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = types.ModuleType("__main__")
    started.__spec__ = module and importlib.machinery.ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, "__main__", started)
    with pytest.raises(SystemExit):
        charjax_command.main(["initlab", "probe", "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {usage} [CONFIG.toml]")
    with pytest.raises(UserError, match=f"; see {usage} --help$"):
        charjax_command.main(["initlab", "probe", "--other"])


def test_arguments_reach_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("charjax.sample")
    monkeypatch.setattr(module, "main", lambda argv: 7 if argv == ["runs/a", "--json"] else 1)
    assert charjax_command.main(["sample", "runs/a", "--json"]) == 7


def test_a_mistyped_command_is_corrected() -> None:
    with pytest.raises(UserError, match="did you mean plan"):
        charjax_command.main(["pla"])


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        charjax_command.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"charjax {__version__}\n"
