"""The works of benchmarks.peers in JAX: the program of charjax's loop, and plain flax."""

from benchmarks import peers_flax, workloads
from benchmarks.peers import FLAX, TOLERANCE
from charjax.config import load_config
from charjax.performance import workload
from charjax.training.session import start_for_training


class Charjax:
    """The program that the real loop runs."""

    def __init__(self, training: workload.Training, dtype: str, device: str):
        """Do the first step.

        Raises:
          ValueError: its first loss is not the model's, though both are in full float32.
        """
        self._training = training
        exact = workload.exact_loss(training)
        training.state, metrics, _ = training.program.run(training.state, 1)
        first = float(metrics[0, 0])
        is_full = dtype == "float32" and device == "cpu"
        if is_full and not abs(first - exact) <= TOLERANCE * exact:
            raise ValueError(f"the first step's loss is {first:.7f}, the model's {exact:.7f}")
        self.facts = {
            "loss": exact,
            "first loss": first,
            "tokens_a_step": training.tokens_a_step,
            "vocab_size": training.session.dataset.tokenizer.vocab_size,
        }

    def run(self, threads: int, count: int) -> None:
        """Do n steps; XLA uses all threads."""
        self._training.steps(count)


class Flax:
    """The networks of benchmarks.peers_flax."""

    def __init__(self, training: workload.Training, dtype: str):
        """Convert the weights."""
        self._peer = peers_flax.Peer(training, dtype)
        self.facts = {"loss": self._peer.exact_loss()}

    def run(self, threads: int, count: int) -> None:
        """Do n steps; XLA uses all threads."""
        self._peer.steps(count)


def build(label: str, words: list[str], dtype: str, device: str) -> Charjax | Flax:
    """Build a contestant by its label, in a process started like that of a run.

    Raises:
      LeftOut: it needs more memory than is available.
      ValueError: it does not compute charjax's model.
    """
    config = load_config(None, words)
    start_for_training(config)
    training = workloads.prepare(config)
    if label == FLAX:
        return Flax(training, dtype)
    return Charjax(training, dtype, device)
