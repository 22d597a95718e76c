"""A training run as it is timed: the compiled chunk of its real loop, called again and again."""

import dataclasses
from collections.abc import Callable

from charjax import hardware
from charjax.performance.failures import check_memory
from charjax.random_streams import purpose_key
from charjax.training.program import CAPACITY, ChunkProgram, compile_chunks
from charjax.training.session import Session, first_state
from charjax.training.state import TrainState


@dataclasses.dataclass
class Training:
    """A run that is trained chunk by chunk, as the real loop does it.

    Attributes:
      session: text, model, devices.
      program: the compiled chunk of steps.
      state: the current one; donated to each chunk.
      bytes_needed: by the compiled program.
    """

    session: Session
    program: ChunkProgram
    state: TrainState
    bytes_needed: int

    def steps(self, count: int) -> None:
        """Do so many steps in calls as long as the loop's longest, and wait for the last."""
        whole, rest = divmod(count, CAPACITY)
        for steps in [CAPACITY] * whole + [rest] * bool(rest):
            self.state, _, done = self.program.run(self.state, steps)
        done.block_until_ready()

    def dispatches(self, steps: int) -> Callable[[int], None]:
        """Return a function that runs n chunks of so many steps, and waits for the last."""

        def run(count: int) -> None:
            for _ in range(count):
                self.state, _, done = self.program.run(self.state, steps)
            done.block_until_ready()

        return run

    @property
    def tokens_a_step(self) -> int:
        """Number of targets in a batch."""
        source = self.session.source
        assert source is not None
        return source.batch_size * source.window


def prepare(session: Session) -> Training:
    """Draw the parameters, and compile the chunk as the real loop does.

    Raises:
      LeftOut: it needs more memory than is available.
    """
    config, state = session.config, first_state(session)
    key = purpose_key(config.train.seed, "dropout")
    assert session.source is not None
    program = compile_chunks(session.model, config, session.source, state, session.mesh, key)
    devices = list(session.mesh.devices.flat)
    needed = check_memory(program.compiled, hardware.available_memory(devices))
    return Training(session, program, state, needed)
