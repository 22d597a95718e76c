"""The two sides of benchmarks.against: their files and their Pythons.

A commit is cloned, and the working tree is copied, so that nothing changes while they are measured.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from charjax.errors import UserError, printable
from charjax.files import user_cache

ROOT = Path(__file__).resolve().parent.parent
# Written into an environment once all its packages are installed.
_COMPLETE = "complete"
_FACTS = """
import importlib.metadata, json, platform, charjax
names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
versions = {name: importlib.metadata.version(name) for name in names}
print(json.dumps([charjax.__file__, platform.python_version(), versions]))
"""


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two sides.

    Attributes:
      tree: the folder with its files.
      python: the Python that runs it.
      cache: its cache of compiled programs.
      facts: of results: commit, changed files, environment, versions.
    """

    tree: Path
    python: str
    cache: Path
    facts: dict[str, Any]

    def environment(self) -> dict[str, str]:
        """Return the variables of its commands."""
        others = ("JAX_COMPILATION_CACHE_DIR", "CHARJAX_CACHE", "PYTHONPATH")
        inherited = {name: value for name, value in os.environ.items() if name not in others}
        return inherited | {
            "PYTHONPATH": str(self.tree),
            "XDG_CACHE_HOME": str(self.cache),
            "JAX_PLATFORMS": "cpu",
        }


def find_commit(name: str, repository: Path = ROOT) -> str:
    """Return the hash of a commit.

    Raises:
      UserError: the repository has none of that name, or there is no repository.
    """
    try:
        # Nothing that begins with a dash is an option of git's.
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        return _git(repository, *words).strip()
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            f"COMMIT: {name!r} given, and {str(repository)!r} has no such commit; give a hash, a "
            "branch or a tag of it"
        ) from None


def clone(commit: str, folder: Path, repository: Path = ROOT) -> None:
    """Write the files of a commit into a new folder."""
    _git(repository, "clone", "--quiet", "--shared", "--no-checkout", str(repository), str(folder))
    _git(folder, "checkout", "--quiet", "--detach", commit)


def copy_working_tree(folder: Path, repository: Path = ROOT) -> list[str]:
    """Copy the files that git tracks or does not ignore, as they are now, into a new folder.

    Returns:
      Those that differ from the last commit: changed, new or removed.
    """
    listed = _git(repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        source, target = repository / name, folder / name
        # A file that was removed is listed, too.
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    status = _git(repository, "status", "--porcelain", "--untracked-files=all", "--no-renames")
    return sorted(line[3:] for line in status.splitlines())


def make_sides(commit: str, folder: Path, repository: Path = ROOT) -> dict[str, Side]:
    """Return the two sides, "then" and "now", made in a folder.

    Raises:
      UserError: the commit's packages cannot be installed, or it cannot be imported.
    """
    trees = {"then": folder / "then", "now": folder / "now"}
    clone(commit, trees["then"], repository)
    changed = copy_working_tree(trees["now"], repository)
    head = _git(repository, "rev-parse", "HEAD").strip()
    commits = {
        "then": {"commit": commit, "changed": []},
        "now": {"commit": head, "changed": changed},
    }
    sides = {}
    for name, tree in trees.items():
        python, how = find_python(requirements(tree), requirements(trees["now"]))
        side = Side(tree, python, folder / f"cache-{name}", {**commits[name], "environment": how})
        sides[name] = dataclasses.replace(side, facts=side.facts | _versions(side))
    return sides


def requirements(tree: Path) -> list[str]:
    """Return what a checkout requires: Python, then its packages, sorted."""
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [f"python {project['requires-python']}", *sorted(project["dependencies"])]


def find_python(needed: list[str], ours: list[str]) -> tuple[str, str]:
    """Return the Python for some requirements, and how it was found.

    With the requirements of the working tree it is this Python. Otherwise it is a virtual
    environment in the user's cache, one for each set of requirements and installed versions. Its
    packages have the versions that are installed here, so that the code is compared, not JAX.

    Raises:
      UserError: pip cannot install them.
    """
    if needed == ours:
        return sys.executable, "that of the working tree, whose requirements are the same"
    pins = sorted(
        f"{distribution.name}=={distribution.version}"
        for distribution in importlib.metadata.distributions()
        if distribution.name != "charjax"
    )
    cache = user_cache()
    if cache is None:
        raise UserError("the environment of a commit needs a cache directory; set CHARJAX_CACHE")
    digest = hashlib.sha256(json.dumps([sys.version, needed, pins]).encode()).hexdigest()[:12]
    folder = cache / "against" / f"environment-{digest}"
    python, how = folder / "bin" / "python", "a virtual environment with the versions of this one"
    if (folder / _COMPLETE).exists():
        return str(python), how
    shutil.rmtree(folder, ignore_errors=True)
    _install(folder, needed[1:], pins)
    (folder / _COMPLETE).touch()
    return str(python), how


def _install(folder: Path, packages: list[str], pins: list[str]) -> None:
    """Make an environment with some packages, in the versions of the pins."""
    print(f"making an environment: {folder}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    command = [*pip, "--disable-pip-version-check", "--constraint", str(constraints), *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"COMMIT: its packages cannot be installed in the versions that are installed here: "
            f"{last_line(done.stderr)}"
        )


def _versions(side: Side) -> dict[str, Any]:
    """Return the versions of a side, whose charjax must be that of its own files."""
    done = subprocess.run(
        [side.python, "-c", _FACTS],
        env=side.environment(),
        # Python looks for modules here first.
        cwd=side.tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(
            f"COMMIT: charjax of {side.facts['commit'][:12]} cannot be imported: "
            f"{last_line(done.stderr)}"
        )
    file, python, versions = json.loads(done.stdout)
    assert Path(file).is_relative_to(side.tree), file
    return {"python": python, "versions": versions}


def last_line(text: str) -> str:
    """Return the last line of a command's output, without its mark of an error."""
    lines = text.strip().splitlines() or ["no message"]
    return printable(lines[-1].removeprefix("error: ").removeprefix("ERROR: "))


def _git(repository: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(repository), *words], check=True, capture_output=True, text=True
    ).stdout
