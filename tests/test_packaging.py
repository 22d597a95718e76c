"""The built package, and the imports allowed to each of its parts."""

import ast
import functools
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import charjax

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "charjax").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_one_version():
    assert PROJECT["version"] == charjax.__version__


def test_the_citation_is_of_this_version():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    tree = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= tree.keys()
    assert tree["version"] == charjax.__version__
    assert tree["authors"] == [{"name": "The charjax authors"}]


def test_a_default_installation_has_these_packages():
    """Everything else is an extra."""
    assert {name.partition(">=")[0] for name in PROJECT["dependencies"]} == {
        *("jax", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "ml_dtypes", "safetensors"),
        *("pydantic", "tomli-w", "rich", "matplotlib", "pandas", "jinja2"),
    }


def test_the_extras():
    wanted = {"cuda12", "cuda13", "tpu", "torch", "tensorboard", "wandb", "bpe", "docs", "dev"}
    assert wanted <= PROJECT["optional-dependencies"].keys()


def hatchling(target: str, source: Path, folder: Path) -> Path:
    """Build a wheel or an sdist without a network, and return its path."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: make test installs it")
    build = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and unpack it."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(hatchling("wheel", ROOT, folder)) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_the_package_and_its_configs_and_nothing_else(wheel: Path):
    here = {path.relative_to(ROOT).as_posix() for path in SOURCES}
    here |= {f"charjax/configs/{path.name}" for path in (ROOT / "configs").glob("*.toml")}
    for kind in ("*.j2", "*.json", "*.css", "*.js", "*.txt", "py.typed"):
        here |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "charjax").rglob(kind)}
    assert "charjax/initlab/report/page.html.j2" in here
    assert "charjax/pages/vendor/uPlot.iife.min.js" in here
    assert "charjax/pages/vendor/LICENSE.txt" in here
    assert "charjax/performance/activations.json" in here
    built = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*") if path.is_file()}
    assert {path for path in built if ".dist-info/" not in path} == here


def test_the_configs_are_found_from_the_wheel(wheel: Path, tmp_path: Path):
    code = "from charjax.config import shipped_configs; print(*shipped_configs())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == sorted(path.stem for path in (ROOT / "configs").glob("*.toml"))


@pytest.mark.slow
def test_the_sdist_makes_the_same_wheel(wheel: Path, tmp_path: Path):
    built = hatchling("sdist", ROOT, tmp_path / "sdist")
    assert built.stat().st_size < 20e6
    with tarfile.open(built) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    for name in ("README.md", "CHANGELOG.md", "CITATION.cff", "tests/conftest.py", "configs"):
        assert (source / name).exists(), name
    with zipfile.ZipFile(hatchling("wheel", source, tmp_path / "again")) as archive:
        again = {name: archive.read(name) for name in archive.namelist()}
    direct = {
        path.relative_to(wheel).as_posix(): path.read_bytes()
        for path in wheel.rglob("*")
        if path.is_file()
    }
    assert again.keys() == direct.keys()
    # The second has the README of the first in its metadata: all else is equal byte for byte.
    assert [name for name in direct if direct[name] != again[name]] == []


@pytest.mark.slow
def test_an_installed_wheel_trains_the_default(wheel: Path, tmp_path: Path):
    """In an environment of its own, with the dependencies of this one, and an empty directory."""
    environment, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    (built,) = wheel.parent.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", built], check=True, timeout=120)
    (packages,) = environment.glob("lib/python*/site-packages")
    # A path that a .pth adds reads no further .pth: an editable charjax there is not found.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(others))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=empty, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(python, "-c", "import charjax; print(charjax.__file__)")
    assert Path(where.strip()).is_relative_to(environment)
    command = environment / "bin" / "charjax"
    assert run(command, "--version") == f"charjax {charjax.__version__}\n"
    # The default text, few steps of a small model.
    small = ["model.n_layer=1", "model.d_model=16", "model.context_length=16"]
    short = ["train.steps=4", "eval.protocol=random", "eval.batches=2"]
    run(command, "train", *small, *short, "--workdir", "run")
    assert {"config.toml", "summary.json", "curves.png"} <= set(os.listdir(empty / "run"))
    assert run(python, "-m", "charjax.sample", "run", "--max-new-tokens", "9").strip()
    run(command, "train", "nanogpt-cpu", "--dry-run", "data.name=stdlib")


@functools.cache
def imports(path: Path) -> set[str]:
    """Return the modules imported anywhere in a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def importers(*packages: str) -> set[str]:
    return {
        path.relative_to(ROOT / "charjax").as_posix()
        for path in SOURCES
        if any(name == p or name.startswith(f"{p}.") for name in imports(path) for p in packages)
    }


def test_each_room_keeps_to_itself():
    assert importers("orbax") == {"run/checkpoint_arrays.py"}
    assert importers("tensorflow", "pickle", "dill", "cloudpickle") == set()
    for room, strangers in {
        "models/": importers("charjax.training", "optax"),
        "ops/": importers("charjax.models", "charjax.training", "optax"),
        "data/": importers("charjax.models", "charjax.training", "optax", "flax"),
    }.items():
        assert not [path for path in strangers if path.startswith(room)], room


def test_no_drawer_for_everything():
    assert not [path for path in SOURCES if path.stem in ("utils", "util", "helpers", "misc")]


def declared() -> set[str]:
    return {name.partition(">=")[0].partition("[")[0] for name in PROJECT["dependencies"]}


def test_every_package_imported_is_declared():
    distributions = {
        "orbax": "orbax-checkpoint",
        # Brought by orbax, as pydantic_core is by pydantic.
        "tensorstore": "orbax-checkpoint",
        "tomli_w": "tomli-w",
        "pydantic_core": "pydantic",
        "google": "protobuf",
        "IPython": "ipykernel",
    }
    third_party = {
        name.partition(".")[0]
        for path in SOURCES
        for name in imports(path)
        if name.partition(".")[0] not in sys.stdlib_module_names | {"charjax"}
    }
    extras = {
        name.partition(">=")[0].partition("[")[0]
        for names in PROJECT["optional-dependencies"].values()
        for name in names
    }
    assert {distributions.get(name, name) for name in third_party} <= declared() | extras


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "reproduce", "interop"])
def test_help_is_quick_because_jax_is_not_imported(command: str, tmp_path: Path):
    if not (ROOT / "charjax" / f"{command}.py").exists():
        pytest.skip(f"charjax.{command} is not written yet")
    code = (
        f"import sys, charjax.{command} as command\n"
        "try:\n    command.main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'jax', 'flax'} & set(sys.modules), 'imported too early'\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: charjax {command}")


# make, as far as it can be tested without a network.


def make(*words: str, cwd: Path) -> str:
    # The make that runs these tests hands its own settings down, VENV among them.
    env = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_make_installs_once_and_again_when_the_project_file_changes(tmp_path: Path):
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    assert "installing charjax" in make("--dry-run", "train", cwd=tmp_path)
    (tmp_path / ".venv").mkdir()
    for stamp in (".made", ".run"):
        (tmp_path / ".venv" / stamp).touch()
    assert "installing" not in make("--dry-run", "train", cwd=tmp_path)
    assert "test tools" in make("--dry-run", "test", cwd=tmp_path)
    newer = (tmp_path / ".venv" / ".run").stat().st_mtime + 10
    os.utime(tmp_path / "pyproject.toml", (newer, newer))
    assert "installing charjax" in make("--dry-run", "train", cwd=tmp_path)


def test_a_python_that_does_not_run_is_passed_over(tmp_path: Path):
    shims = tmp_path / "shims"
    versions = tmp_path / "pyenv" / "versions" / "3.14.9" / "bin"
    for folder in (shims, versions):
        folder.mkdir(parents=True)
        (folder / "python3.14").write_text("#!/bin/sh\nexit 127\n")
        (folder / "python").write_text("#!/bin/sh\nexit 127\n")
        for python in folder.iterdir():
            python.chmod(0o755)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    done = subprocess.run(
        ["sh", ROOT / ".ci" / "newest-python", "3.14", version],
        env={
            "PATH": os.pathsep.join([str(shims), *os.environ["PATH"].split(os.pathsep)]),
            "PYENV_ROOT": str(tmp_path / "pyenv"),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert str(tmp_path) not in done.stdout
    assert done.returncode == 0 or "no Python 3.14" in done.stderr
