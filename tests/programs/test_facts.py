"""The key of a stored program: nothing that changes a program is left out."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import charjax
from charjax import parallel
from charjax.config import load_config
from charjax.data.datasets import load_dataset
from charjax.programs import facts
from charjax.training.program import dropout_key, lower_chunks
from charjax.training.session import first_state, make_session

TEXT = "abcdefgh\n" * 40


def config(*overrides: str):
    return load_config(None, ["model.kind=bigram", "train.steps=5", *overrides], note=print)


def changed(section: str, key: str, value):
    """Return the configuration with one other value, unchecked."""
    base = config()
    part = getattr(base, section).model_copy(update={key: value})
    return base.model_copy(update={section: part})


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
def test_every_setting_counts_but_those_that_are_listed():
    base = config()
    for section, values in base.model_dump().items():
        for key in values:
            is_unread = section in facts.UNREAD_SECTIONS or (section, key) in facts.UNREAD
            found = facts.config_facts(changed(section, key, "other"))
            assert (found == facts.config_facts(base)) == is_unread, (section, key)


@pytest.mark.parametrize(
    "word",
    [
        "optim.learning_rate=2e-3",
        "optim.weight_decay=0.1",
        "optim.kind=sgd",
        "train.batch_size=8",
        "train.steps=6",
        "train.max_skipped=3",
        "train.z_loss=0.1",
        "model.context_length=9",
        "runtime.dtype=bfloat16",
        "data.sampling=epoch",
        "init.scheme=xavier_normal",
    ],
)
def test_a_setting_that_a_program_reads_changes_the_key(word: str):
    assert facts.config_facts(config(word)) != facts.config_facts(config())


def test_settings_that_are_left_out_change_no_program(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    texts = set()
    others = "train.seed=8", "eval.max_targets=50", "train.log_every=2", "checkpoint.every=3"
    for words in ((), others):
        found = config(f"data.path={path}", "model.context_length=4", *words)
        session = make_session(found, load_dataset(found.data), jax.devices()[:1])
        state, key = first_state(session), dropout_key(session.config, session.mesh)
        lowered = lower_chunks(
            session.model, session.config, session.source, state, session.mesh, key
        )
        texts.add(lowered.as_text())
    assert len(texts) == 1


def test_code_of_the_users_own_has_no_key(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("import jax.numpy as jnp\n\n\ndef act(x):\n    return jnp.sin(x)\n")
    found = load_config(
        None, ["model.kind=mlp", "data.name=names", f"model.activation={path}:act"], note=print
    )
    assert facts.config_facts(found) is None


def test_the_environment_counts(monkeypatch):
    made = facts.environment_digest.__wrapped__
    base = made()
    assert made() == base
    for name in ("XLA_FLAGS", "JAX_SOMETHING", "LIBTPU_INIT_ARGS", "OMP_NUM_THREADS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "--xla_cpu_enable_fast_math=true")
            assert made() != base, name
    for module, attribute in ((jax, "__version__"), (facts.np, "__version__")):
        with monkeypatch.context() as patch:
            patch.setattr(module, attribute, "9.9.9")
            assert made() != base, module
    for replaced in ("version", "processor", "cores", "_instructions"):
        with monkeypatch.context() as patch:
            patch.setattr(facts, replaced, lambda *_: "7")
            assert made() != base, replaced


def test_settings_of_jax_count():
    made = facts.environment_digest.__wrapped__
    base = made()
    jax.config.update("jax_default_matmul_precision", "float32")
    try:
        assert made() != base
    finally:
        jax.config.update("jax_default_matmul_precision", None)
    assert made() == base


def test_every_file_of_charjax_counts(tmp_path: Path):
    assert facts.sources_digest() == facts.digest_of_files(Path(charjax.__file__).parent)
    (tmp_path / "models").mkdir()
    files = [tmp_path / "a.py", tmp_path / "models" / "b.py"]
    for path in files:
        path.write_text("x = 1\n")
    found = {facts.digest_of_files(tmp_path)}
    for change in (
        lambda: files[1].write_text("x = 2\n"),
        lambda: files[0].write_text("x = 1\ny = 2\n"),
        lambda: files[0].rename(tmp_path / "c.py"),
        lambda: (tmp_path / "models" / "d.py").write_text(""),
    ):
        change()
        found.add(facts.digest_of_files(tmp_path))
    assert len(found) == 5
    (tmp_path / "notes.txt").write_text("not code")
    assert facts.digest_of_files(tmp_path) in found


def test_the_devices_count():
    inputs = (jax.numpy.zeros(2),)
    one = parallel.make_mesh(jax.devices()[:1], 1)

    @dataclasses.dataclass
    class Device:
        id: int
        process_index: int = 0

    class Mesh:
        devices = facts.np.array([Device(0), Device(1)], object)

    assert facts.entry_key(("a",), inputs, one) != facts.entry_key(("a",), inputs, Mesh())


def test_calls_of_libraries_are_found():
    """A program that calls LAPACK, loaded before JAX has registered it, ends the process."""
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    assert facts.library_calls(jax.jit(jnp.linalg.qr).lower(square))
    assert not facts.library_calls(jax.jit(jnp.dot).lower(square, square))
