"""Compiles one file per instruction set, each with its own flags, into one shared library."""

import platform
from pathlib import Path
from typing import Any

import jax
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

_FOLDER = Path("src/charjax_kernels")
_FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-Wno-psabi"]
_WIDE = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"]
_FLAGS_OF: dict[str, list[str]] = {}
for _kind in ("mlp", "gpt", "decode"):
    _FLAGS_OF |= {f"{_kind}.cc": [], f"{_kind}_generic.cc": []}
    if platform.machine().lower() in ("x86_64", "amd64"):
        _FLAGS_OF[f"{_kind}_avx2.cc"] = ["-mavx2", "-mfma"]
        _FLAGS_OF[f"{_kind}_avx512.cc"] = [*_WIDE, "-mprefer-vector-width=512"]
_HEADERS = [path.as_posix() for path in sorted(_FOLDER.glob("*.[hi]*")) if path.suffix != ".cc"]


class build_kernels(build_ext):  # noqa: N801 - setuptools prints its name
    """Compiler calls with flags of the file."""

    def build_extension(self, ext: Any) -> None:
        """Compile the files and link them."""
        objects = []
        for name, flags in _FLAGS_OF.items():
            objects += self.compiler.compile(
                [str(_FOLDER / name)],
                output_dir=self.build_temp,
                include_dirs=[str(_FOLDER)],
                extra_postargs=[*_FLAGS, *flags, "-isystem", jax.ffi.include_dir()],
                depends=ext.depends,
            )
        path = self.get_ext_fullpath(ext.name)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, path, target_lang="c++")


setup(
    ext_modules=[
        Extension(
            "charjax_kernels._library",
            sources=[str(_FOLDER / name) for name in _FLAGS_OF],
            depends=_HEADERS,
        )
    ],
    cmdclass={"build_ext": build_kernels},
)
