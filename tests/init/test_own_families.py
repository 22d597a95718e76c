"""Schemes on families of one's own: by the roles of their parameters."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from charjax.config import FAMILIES, FamilyConfig, InitConfig
from charjax.init import find_scheme, scheme_names
from charjax.init.own_families import find_lack
from charjax.models.roles import Parameter, Role, dense
from tests import own
from tests.commands import run

ENDS = (
    ("embedding", Parameter(Role.EMBEDDING, fan_out=(1,))),
    ("out/kernel", dense(Role.READOUT)),
    ("out/bias", Parameter(Role.BIAS)),
)
BLOCK = (("block/out/kernel", dense(Role.RESIDUAL_OUTPUT, in_block=True)),)
CELL = (("cell/kernel", dense(Role.RECURRENT, activation="relu")),)
ODD = """class Odd(nn.Module):
    features: int
    bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x):
        self.param("bias", nn.initializers.zeros, (self.features,))
        shape = (x.shape[-1], self.features)
        return 1 + x @ self.param("kernel", nn.initializers.lecun_normal(), shape)


class Pair"""
GATE = (
    ("cell/kernel", dense(Role.RECURRENT, gates=2)),
    ("cell/bias", Parameter(Role.GATE_BIAS, gates=2, gate_names=("forget", "input"))),
)


def lack(scheme: str, roles: Any, depth: int = 0, section: type = FamilyConfig) -> str | None:
    """Describe what a family with these parameters lacks; all its matrices are (8, 8)."""
    shapes: dict[str, Any] = {}
    for path, parameter in roles:
        place = shapes
        *folders, name = path.split("/")
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = SimpleNamespace(shape=(8, 8) if parameter.fan_out else (8,))
    config = SimpleNamespace(model=section.model_construct())
    found = find_scheme(InitConfig(scheme=scheme))
    return find_lack(config, found, roles, shapes, depth)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scheme", "roles", "depth", "what"),
    [
        ("mup", ENDS[:1], 0, "a readout, and no parameter has the role READOUT"),
        ("mup", ENDS, 0, None),
        ("spectral", ENDS[:1], 0, "a readout"),
        ("completep", BLOCK, 2, "a readout"),
        ("completep", ENDS, 0, "residual blocks, and no parameter has the role RESIDUAL_OUTPUT"),
        ("completep", (*ENDS, *BLOCK), 0, "the number of residual blocks, as the setting n_layer"),
        ("completep", (*ENDS, *BLOCK), 2, None),
        ("small_init", (("out/kernel", dense(Role.RESIDUAL_OUTPUT)),), 2, "with in_block=True"),
        ("small_init", BLOCK, 2, None),
        ("deepnorm", BLOCK, 2, "model.residual=deepnorm, and the family has no such setting"),
        ("tfixup", BLOCK, 2, "model.residual=plain"),
        ("zeros", ENDS[:2], 0, "a bias of the readout"),
        ("zeros", ENDS, 0, None),
        ("irnn", ENDS, 0, "a recurrence by ReLU"),
        ("irnn", GATE, 0, "a recurrence by ReLU"),
        ("irnn", CELL, 0, None),
        ("chrono", CELL, 0, "a forget gate"),
        ("chrono", GATE, 0, None),
        ("identity", ENDS, 0, "kernels between embedding and readout"),
        ("identity", CELL, 0, None),
        ("delta_orthogonal", BLOCK, 2, "a kernel that reads several positions"),
        ("delta_orthogonal", (("hidden/kernel", dense(places=2)),), 0, None),
        ("umup", (*ENDS, *BLOCK), 2, "model.attention_scale=inverse"),
        ("glorot_normal", (), 0, None),
    ],
)
def test_what_a_family_lacks(scheme: str, roles: Any, depth: int, what: str | None) -> None:
    found = lack(scheme, roles, depth)
    assert (found is None) == (what is None), found
    assert what is None or what in str(found)


def test_a_function_that_a_scheme_is_made_for_is_a_setting() -> None:
    assert lack("deepnorm", BLOCK, 2, FAMILIES["transformer"]) is None
    assert lack("tfixup", BLOCK, 2, FAMILIES["transformer"]) is None


def test_every_trait_has_its_families() -> None:
    for scheme in scheme_names():
        requirements = find_scheme(InitConfig(scheme=scheme)).requirements
        assert requirements.get("model.kind", FAMILIES), scheme


class TestCommands:
    """A family of two characters and a hidden layer."""

    @pytest.fixture
    def start(self, tmp_path: Path) -> Any:
        (tmp_path / "text.txt").write_text("the world is all that is the case. " * 60)

        def start(scheme: str, *changes: tuple[str, str]) -> Any:
            file = own.write(tmp_path, *changes)
            words = [f"data.path={tmp_path / 'text.txt'}", f"model.kind={file}:Pair"]
            words += ["train.steps=2", "train.batch_size=4", "model.context_length=8"]
            return run("train", *words, f"init.scheme={scheme}", "--workdir", tmp_path / "run")

        return start

    @pytest.mark.parametrize(
        "scheme", ["mup", *(pytest.param(s, marks=pytest.mark.slow) for s in ("lsuv", "zeros"))]
    )
    def test_a_scheme_whose_rules_cover_the_roles_trains(self, scheme: str, start: Any) -> None:
        done = start(scheme)
        assert done.status == 0, done.err

    @pytest.mark.slow
    def test_what_lsuv_cannot_scale(self, start: Any, tmp_path: Path) -> None:
        done = start("lsuv", ("jnp.tanh(Linear(", "jnp.tanh(Odd("), ("class Pair", ODD))
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert "needs linear layers alone, and 'hidden/kernel' is no kernel of one" in done.err
        assert not (tmp_path / "run").exists()

    def test_a_scheme_without_what_it_is_about(self, start: Any, tmp_path: Path) -> None:
        done = start("rezero")
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert "about the residual gain, and no parameter of this model is one" in done.err
        assert not (tmp_path / "run").exists()
