"""Bytes that a training run holds on each device, before it is started."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax

from charjax import parallel
from charjax.data.host_batches import HostSource
from charjax.performance import activations
from charjax.performance.devices import Platform
from charjax.training.feed import block_shapes
from charjax.training.program import CAPACITY
from charjax.training.session import Session
from charjax.training.state import TrainState, parameter_count, state_shapes
from charjax.training.step import Metrics

_FLOAT = 4
# Threads' stacks and pages of libraries that the first call of a program with products adds to a
# CPU's process (measured: benchmarks/plan.py).
_PROCESS = 13 * 2**20
# Of a text on the host: those whose steps are in flight, and the next one.
_BLOCKS = 3
Source = Literal["compiler", "formula"]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per device: every device holds the whole text, and the state or its part (fsdp).

    Of a text that stays on the host it holds its rows of a few blocks.

    Attributes:
      parameters: in float32.
      all_parameters: likewise, those of all devices that divide them.
      moments: the optimizer's state.
      other: statistics of batch norm, carried states, a scheme's factors, a moving average of the
        parameters, counters.
      tables: of the counts beside a network, which each device holds whole.
      predictions: of these counts, in place of each training token.
      checkpoint: a saved state, of all devices, as far as it is not compressed.
      text: the training tokens and the windows in them, or the blocks of a text on the host.
      metrics: the buffer of a chunk's metrics.
      temporary: gradients, activations and all else that a step holds for a while.
      gradients: one array for each parameter, a part of `temporary`.
      source: of `temporary`.
    """

    parameters: int
    all_parameters: int
    moments: int
    other: int
    tables: int
    predictions: int
    checkpoint: int
    text: int
    metrics: int
    temporary: int
    gradients: int
    source: Source

    @property
    def state(self) -> int:
        """Bytes of what a step changes."""
        return self.parameters + self.moments + self.other

    @property
    def arguments(self) -> int:
        """Bytes of the arguments of a step: state, tables and text."""
        return self.state + self.tables + self.predictions + self.text

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the batch, without temporary arrays."""
        return self.arguments + self.metrics

    @property
    def activations(self) -> int:
        """Bytes of temporary arrays other than gradients."""
        return max(0, self.temporary - self.gradients)

    @property
    def total(self) -> int:
        """All of them."""
        return self.fixed + self.temporary


def predict(session: Session, *, devices: int, platform: Platform, fsdp: int = 1) -> Memory:
    """Return the memory of a run by formulas.

    Args:
      session: the run; no array of its state is made.
      devices: that share the batch; a divisor of it.
      platform: of the devices.
      fsdp: devices that divide parameters and moments among them.
    """
    rows = session.config.train.batch_size // devices
    held = temporary(session, platform, fsdp)(rows)
    return with_temporary(session, devices=devices, temporary=held, source="formula", fsdp=fsdp)


def with_temporary(
    session: Session, *, devices: int, temporary: int, source: Source, fsdp: int = 1
) -> Memory:
    """Return the memory of a run whose temporary arrays are known."""
    state = _state(session)
    carry = size_of(state.carry) // devices
    rest = state._replace(params=(), opt_state=(), carry=(), average=())
    tables, predictions = size_of(session.table_shapes), _predictions(session)
    return Memory(
        parameters=size_of(state.params, fsdp),
        all_parameters=size_of(state.params),
        moments=size_of(state.opt_state, fsdp),
        other=size_of(rest) + size_of(state.average, fsdp) + carry,
        tables=tables,
        predictions=predictions,
        checkpoint=size_of(state) + tables,
        text=_text(session, devices) - predictions,
        metrics=CAPACITY * len(Metrics._fields) * _FLOAT,
        temporary=temporary,
        gradients=_gradients(session, state, fsdp),
        source=source,
    )


def temporary(session: Session, platform: Platform, fsdp: int = 1) -> Callable[[int], int]:
    """Return the function from windows at once to bytes of temporary arrays, by formula.

    Divided parameters are gathered for a step: those of all devices are held then.
    """
    if fsdp > 1:
        alone, gathered = temporary(session, platform), size_of(_state(session).params)
        return lambda rows: alone(rows) + gathered
    config, model = session.config, session.model
    assert session.source is not None
    window, state = session.source.window, _state(session)
    found = activations.formula(config.model.kind, platform, config.runtime.dtype)
    # The formulas were fitted to programs of models without options.
    if found is None or not model.is_plain:
        each = _FLOAT * (model.saved_values(window) + 4 * window * model.vocab_size)
        gradients = _gradients(session, state)
        return lambda rows: rows * each + gradients
    shapes, count = model.activation_shapes(window), parameter_count(state.params)
    sums = _FLOAT * count if config.optim.accumulate_steps > 1 else 0
    return lambda rows: sums + found.bytes(shapes, rows, count, tpu=platform == "tpu")


def has_formula(session: Session, platform: Platform) -> bool:
    """Return true if a formula was fitted to programs of the family for the platform."""
    config = session.config
    found = activations.formula(config.model.kind, platform, config.runtime.dtype)
    return found is not None and session.model.is_plain


def library_bytes(session: Session, rows: int) -> int:
    """Return the bytes of a CPU's libraries that its compiler does not know of."""
    assert session.source is not None
    return _FLOAT * rows * session.model.library_values(session.source.window)


def largest_batch(total: Callable[[int], float], usable: float, most: int = 2**24) -> int:
    """Return the greatest number of windows for which `total` is at most `usable`; 0 for none.

    Args:
      total: from a number of windows on a device to bytes; it grows.
      usable: bytes of the device.
      most: where the search ends.
    """
    low, high = 0, 1
    while high <= most and total(high) <= usable:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle) <= usable else (low, middle)
    return low


def size_of(tree: Any, fsdp: int = 1) -> int:
    """Return the bytes of arrays, or of their shapes, on each of the devices that divide them."""
    return sum(parallel.part_bytes(leaf, fsdp) for leaf in jax.tree.leaves(tree))


def compiled_bytes(session: Session, found: Any) -> int:
    """Return the temporary bytes of a compiled program on each device.

    Args:
      session: the run.
      found: a `charjax.performance.topology.Compilation`.
    """
    devices = session.mesh.size
    if session.mesh.devices.flat[0].platform != "cpu":
        return int(found.temporary)
    rows = session.config.train.batch_size // devices
    process = _PROCESS // devices if session.model.forward_flops else 0
    return int(found.temporary) + library_bytes(session, rows) + process


def _text(session: Session, devices: int) -> int:
    source = session.source
    if not isinstance(source, HostSource):
        return size_of(source)
    block = block_shapes(source, source.most_steps, session.mesh)
    return _BLOCKS * size_of(block) // devices


def _predictions(session: Session) -> int:
    return size_of(getattr(session.source, "count_log_probs", None))


def _state(session: Session) -> TrainState:
    shapes: TrainState = _shapes(session.model, session.config)
    return shapes


# The search for a batch asks for it again and again.
_shapes = functools.lru_cache(maxsize=8)(state_shapes)


def _gradients(session: Session, state: TrainState, fsdp: int = 1) -> int:
    sums = size_of(state.params, fsdp) if session.config.optim.accumulate_steps > 1 else 0
    return size_of(state.params) + sums
