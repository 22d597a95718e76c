"""`charjax COMMAND` is `python -m charjax.COMMAND`, under one name."""

import importlib

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
