"""Rules of the layers that `lint-imports` cannot check: private names and mesh axes."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    path for package in ("charjax", "benchmarks") for path in sorted((ROOT / package).rglob("*.py"))
]
# Functions of JAX that are given the name of an axis, and where: by position or by keyword.
COLLECTIVES = {"psum", "pmean", "pmax", "pmin", "all_gather", "all_to_all", "ppermute"}
COLLECTIVES |= {"axis_index", "axis_size", "psum_scatter", "PartitionSpec", "Mesh", "P"}


def private_imports(tree: ast.AST) -> Iterator[str]:
    """Yield private names that a module imports from another one of the project."""
    modules = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.module.partition(".")[0] not in ("charjax", "benchmarks"):
            continue
        for alias in node.names:
            if alias.name.startswith("_") and not alias.name.startswith("__"):
                yield f"line {node.lineno}: {node.module}.{alias.name}"
            modules.add(alias.asname or alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            # Public for all the underscore: https://docs.python.org/3/library/collections.html
            private &= node.attr not in ("_fields", "_replace", "_asdict", "_make")
            if private and node.value.id in modules:
                yield f"line {node.lineno}: {node.value.id}.{node.attr}"


def axis_names(tree: ast.AST) -> Iterator[str]:
    """Yield strings that name a mesh axis."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        called = node.func.id if isinstance(node.func, ast.Name) else called
        named = [word.value for word in node.keywords if word.arg in ("axis_name", "axis_names")]
        for argument in [*named, *(node.args if called in COLLECTIVES else [])]:
            for part in ast.walk(argument):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield f"line {part.lineno}: {part.value!r}"


def parse(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_private_names_stay_in_their_module() -> None:
    found = {path: list(private_imports(parse(path))) for path in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


def test_only_parallel_names_a_mesh_axis() -> None:
    naming = {path for path in SOURCES if list(axis_names(parse(path)))}
    assert naming <= {ROOT / "charjax" / "parallel.py"}


def test_only_the_choice_asks_for_the_default_backend() -> None:
    """Every other program is compiled for the devices of its mesh (`parallel.target`)."""
    asking = {path for path in SOURCES if "default_backend" in path.read_text(encoding="utf-8")}
    here = {path for path in asking if path.is_relative_to(ROOT / "charjax")}
    assert here == {ROOT / "charjax" / "ops" / "choice.py"}


def test_planted_cases_are_found() -> None:
    planted = "from charjax import backend\nfrom charjax.files import _x\nbackend._flags\n"
    assert len(list(private_imports(ast.parse(planted)))) == 2
    named = 'jax.lax.psum(x, "data")\nPartitionSpec(("data",))\njax.vmap(f, axis_name="data")\n'
    assert len(list(axis_names(ast.parse(named)))) == 3


def test_planted_imports_break_their_contracts(tmp_path: Path) -> None:
    for name in ("charjax", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("results"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module, line in (
        ("models/bigram.py", "import charjax.training.step"),
        ("training/step.py", "import orbax.checkpoint"),
        ("ops/lookup.py", "import charjax.ops.planted"),
        ("ops/planted.py", "import charjax.ops.lookup"),
    ):
        with (tmp_path / "charjax" / module).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    broken = {row.partition(" BROKEN")[0] for row in done.stdout.splitlines() if " BROKEN" in row}
    assert done.returncode == 1
    assert broken == {
        "Higher floors use lower ones",
        "Only the checkpoint store imports orbax",
        "No circles",
    }
