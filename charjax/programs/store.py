"""Compiling a program, or loading the one that an earlier start stored."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from charjax import backend
from charjax.programs import entries, facts, structures
from charjax.programs.loading import Loading, Stored, load_all, with_structures


@dataclasses.dataclass
class Store:
    """The programs that earlier starts stored, and those that this command uses.

    Attributes:
      folder: the user's private one.
      hint: the key of the command's hint.
      loading: what a thread loads, by entry.
      used: the entries that this command has used.
      notes: what else the next start with these settings is to know at once.
      has_warned: damage has been reported.
    """

    folder: Path
    hint: str
    loading: dict[str, Loading] = dataclasses.field(default_factory=dict)
    used: list[str] = dataclasses.field(default_factory=list)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    has_warned: bool = False

    def get(
        self,
        names: Iterable[str],
        arguments: Any,
        mesh: Mesh,
        lower: Callable[[], jax.stages.Lowered],
        compile_lowered: Callable[[jax.stages.Lowered], jax.stages.Compiled],
        *,
        prepares: bool = False,
    ) -> jax.stages.Compiled:
        """Return a compiled program: stored, or else compiled and stored.

        Args:
          names: what it is made from (see `facts.entry_key`).
          arguments: it will be called with, or their shapes.
          mesh: where it runs.
          lower: traces and lowers it.
          compile_lowered: compiles it.
          prepares: see `Stored`.
        """
        entry = facts.entry_key(names, arguments, mesh)
        self.used.append(entry)
        try:
            found = self._load(entry, arguments)
        except (ImportError, structures.UnknownError):
            # A class of the structures has moved since.
            found = None
        except Exception as error:
            # Libraries raise many kinds for what they cannot read.
            self._warn(error)
            found = None
        if found is not None:
            return found
        return self._compile(entry, lower(), mesh, compile_lowered, prepares=prepares)

    def _load(self, entry: str, arguments: Any) -> jax.stages.Compiled | None:
        head = self._read_head(entry)
        if head is None:
            return None
        stored, results = head
        ahead = self.loading.pop(entry, None)
        program = ahead.result() if ahead else stored.load(self.folder)
        if program is None:
            return None
        inputs = jax.tree.structure((tuple(arguments), {}))
        return with_structures(program, inputs, structures.decode(json.loads(results)))

    def _read_head(self, entry: str) -> tuple[Stored, bytes] | None:
        """Return the program of an entry, and the structure of what it returns."""
        body = entries.read(self.folder / f"{entry}.entry")
        if body is None:
            return None
        fields, _, results = body.partition(b"\n")
        return Stored(**json.loads(fields)), results

    def _compile(
        self,
        entry: str,
        lowered: jax.stages.Lowered,
        mesh: Mesh,
        compile_lowered: Callable[[jax.stages.Lowered], jax.stages.Compiled],
        *,
        prepares: bool,
    ) -> jax.stages.Compiled:
        """Compile a program and store it, or load it where the same one is stored already.

        One that calls into a library, such as LAPACK for an orthogonal draw, is not stored: it
        would be loaded before JAX has registered the library, and running it ends the process
        (jaxlib 0.12).
        """
        if facts.library_calls(lowered):
            return compile_lowered(lowered)
        stored = Stored(
            program=facts.program_key(lowered, mesh),
            devices=[device.id for device in mesh.devices.flat],
            arguments=len(jax.tree.leaves(lowered.args_info)),
            results=len(jax.tree.leaves(lowered.out_info)),
            prepares=prepares,
        )
        compiled = None
        try:
            if (program := stored.load(self.folder)) is not None:
                compiled = with_structures(program, lowered.in_tree, lowered.out_tree)
        except Exception as error:
            self._warn(error)
        if compiled is None:
            with backend.without_cache():
                compiled = compile_lowered(lowered)
            try:
                data, _, _ = serialize_executable.serialize(compiled)
            except Exception:
                # Not all can be: such as a program whose constants are arguments.
                return compiled
            if not self.write(f"{stored.program}.program", data):
                return compiled
        with contextlib.suppress(structures.UnknownError):
            results = json.dumps(structures.encode(lowered.out_tree))
            fields = json.dumps(dataclasses.asdict(stored))
            self.write(f"{entry}.entry", f"{fields}\n{results}".encode())
        return compiled

    def shapes(self, names: Iterable[str], trace: Callable[[], Any]) -> Any:
        """Return a pytree of shapes and dtypes: stored, or else traced and stored.

        Args:
          names: what it depends on (see `facts.entry_key`).
          trace: returns it.
        """
        path = self.folder / f"{facts.shapes_key(names)}.shapes"
        try:
            if (body := entries.read(path)) is not None:
                leaves, _, structure = body.partition(b"\n")
                return structures.decode(json.loads(structure)).unflatten(
                    jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in json.loads(leaves)
                )
        except Exception as error:
            if not isinstance(error, ImportError | structures.UnknownError):
                self._warn(error)
        traced = trace()
        found, structure = jax.tree.flatten(traced)
        shapes = json.dumps([(leaf.shape, str(leaf.dtype)) for leaf in found])
        with contextlib.suppress(structures.UnknownError):
            encoded = json.dumps(structures.encode(structure))
            self.write(path.name, f"{shapes}\n{encoded}".encode())
        return traced

    def load_ahead(self, wanted: list[str]) -> None:
        """Load the programs of some entries in a thread, in this order."""
        for entry in wanted:
            try:
                head = self._read_head(entry)
            except entries.DamagedError:
                # Reported when it is used.
                continue
            if head is not None:
                self.loading[entry] = Loading(head[0], self.folder)
        load_all(list(self.loading.values()))

    def read_hint(self) -> dict[str, Any] | None:
        """Return what `write_hint` wrote, if it did."""
        try:
            body = entries.read(self.folder / f"{self.hint}.hint")
        except entries.DamagedError as error:
            self._warn(error)
            return None
        return None if body is None else json.loads(body)

    def write_hint(self) -> None:
        """Store which entries were used, and the notes, for the next start with these settings."""
        hint = {**self.notes, "entries": self.used}
        if hint != self.read_hint():
            self.write(f"{self.hint}.hint", json.dumps(hint).encode())

    def write(self, name: str, body: bytes) -> bool:
        """Write a file and keep to the limit; return false, with one warning, if that failed."""
        try:
            entries.write(self.folder / name, body)
            entries.make_room(self.folder)
        except OSError as error:
            reason = f"{str(self.folder)!r}: {error.strerror}"
            backend.warn_once(f"programs are not stored for the next start: {reason}")
            return False
        return True

    def _warn(self, error: Exception) -> None:
        """Report damage; the first is enough, as all of it is compiled again."""
        if not self.has_warned:
            self.has_warned = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            backend.warn_once(f"a stored program cannot be used, and is compiled again: {reason}")
