"""The facts that all processes of a run must have in common, compared before the first step."""

import hashlib
import json
import platform
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import jax

from charjax import hardware, processes
from charjax.config import Config
from charjax.errors import UserError
from charjax.run.checkpoint import state_digest
from charjax.training.session import Session
from charjax.training.state import TrainState

# Where the text is may differ from machine to machine: its SHA-256 is compared.
_LOCAL = {"data.path"}
_SHOWN = 3


def check_start(config: Config, args: Namespace) -> None:
    """Raise a UserError unless all processes have the same versions, flags and settings."""
    python = ".".join(platform.python_version_tuple()[:2])
    versions = hardware.versions("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    flags = {
        "--resume": args.resume,
        "--workdir": args.workdir,
        "--init-from": args.init_from is not None,
        "--checkpoint": args.checkpoint,
        "--profile": args.profile,
    }
    settings = {
        f"{section}.{field}": value
        for section, fields in config.model_dump(mode="json").items()
        for field, value in fields.items()
        if f"{section}.{field}" not in _LOCAL
    }
    require_equal({"python": python, **versions}, "install the same versions everywhere")
    require_equal({**flags, **settings}, "start every process with the same settings and flags")


def check_session(session: Session) -> None:
    """Raise a UserError unless all processes have the same text, alphabet and devices."""
    dataset, mesh = session.dataset, session.mesh
    facts = {
        "text (SHA-256)": dataset.digest[:12],
        "alphabet (SHA-256)": dataset.tokenizer.digest()[:12],
        "resolved configuration (SHA-256)": _resolved(session.config),
        "devices of the mesh": [int(device.id) for device in mesh.devices.flat],
    }
    require_equal(facts, "give every process the same text and the same kind of devices")


def check_state(state: TrainState, step: int) -> None:
    """Raise a UserError unless all processes start from the same step and arrays.

    Of arrays that are divided, no process has more than its own part: they cannot differ.
    """
    if processes.count() == 1:
        return
    whole = [
        leaf
        for leaf in jax.tree.leaves(state)
        if isinstance(leaf, jax.Array) and leaf.is_fully_replicated
    ]
    facts = {"first step": step, "initial state (SHA-256)": state_digest(whole)[:12]}
    require_equal(facts, "give every process the same kind of machine and the same checkpoint")


def _resolved(config: Config) -> str:
    """Return the SHA-256 of a configuration without what is local to a machine."""
    tree = config.model_dump(mode="json")
    text = json.dumps({**tree, "data": {**tree["data"], "path": None}}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def require_equal(facts: Mapping[str, Any], remedy: str) -> None:
    """Raise a UserError that names the facts which differ, and who has what."""
    if processes.count() == 1:
        return
    texts = [json.loads(text) for text in processes.gather(json.dumps(facts))]
    differing = [
        name
        for name in sorted({name for each in texts for name in each})
        if any(each.get(name) != texts[0].get(name) for each in texts)
    ]
    if not differing:
        return
    shown = "; ".join(
        _describe(name, [each.get(name) for each in texts]) for name in differing[:_SHOWN]
    )
    rest = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    raise UserError(f"--processes: the processes differ: {shown}{rest}; {remedy}")


def _describe(name: str, values: list[Any]) -> str:
    """Return a fact's value on process 0, and the first other one."""
    other = next(number for number, value in enumerate(values) if value != values[0])
    return (
        f"{name} is {json.dumps(values[0])} on process 0 and {json.dumps(values[other])} on "
        f"process {other}"
    )
