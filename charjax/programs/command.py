"""The stored programs of a command: those that it will need are loaded from its beginning on."""

import contextlib

from charjax import backend
from charjax.config import Config
from charjax.errors import UserError
from charjax.hardware import cores
from charjax.programs import facts
from charjax.programs.store import Store

# That of this process, once a command has begun; calls of the library have none.
_open: list[Store] = []


def begin_command(name: str, config: Config) -> None:
    """Open the store, and load in a thread what this command used last with these settings.

    JAX is started for it, if something is stored. Nothing that fails here ends the command: it
    goes on as without a store, and reports a mistake where it finds it.

    Args:
      name: of the command.
      config: as resolved before the text is read.
    """
    _open.clear()
    if (opened := _opened(name, config)) is None:
        return
    if (found := opened.read_hint()) is None:
        return
    with contextlib.suppress(UserError):
        backend.start_backend(config.runtime, core_devices=True, large_calls=found["large_calls"])
        opened.load_ahead(found["entries"])


def use_stored(name: str, config: Config) -> None:
    """Open the store, for a command that needs little of it; nothing is loaded ahead.

    Arguments as of `begin_command`.
    """
    _open.clear()
    _opened(name, config)


def _opened(name: str, config: Config) -> Store | None:
    compiled, settings = backend.compiled_folder(), facts.config_facts(config)
    if compiled is None or settings is None:
        return None
    folder = compiled / "programs"
    try:
        backend.make_private(folder)
    except OSError as error:
        backend.warn_once(f"programs are not stored for the next start: {error}")
        return None
    opened = Store(folder, facts.digest([name, settings, facts.sources_digest(), str(cores())]))
    _open.append(opened)
    return opened


def open_store() -> Store | None:
    """Return the store of this command, if it has one."""
    return _open[0] if _open else None
