"""`charjax benchmark --against torch`: both sides do the same work."""

from pathlib import Path

import pytest

from charjax.config import load_config
from charjax.errors import UserError
from charjax.performance import contest, same_work, workload
from charjax.performance.failures import LeftOut
from charjax.training.session import open_session
from charjax.training.state import parameter_count

torch = pytest.importorskip("torch", reason="the extra torch is not installed: make parity has it")

SMALL = ["model.d_embed=4", "model.d_hidden=8", "model.context_length=8"]
MODELS = {
    "bigram": ["model.context_length=8"],
    "mlp": ["data.layout=pairs", "model.context_length=3", "model.d_embed=4", "model.hidden=[8]"],
    "rnn": [*SMALL, "model.n_layer=2", "model.dropout=0.2"],
    "gru": SMALL,
    "lstm": SMALL,
    "transformer": ["model.n_layer=1", "model.n_head=2", "model.d_model=8", "model.dropout=0.2"],
}


def words_of(kind: str, folder: Path) -> list[str]:
    text = folder / "text.txt"
    text.write_text("the cat sat on the mat.\n" * 40)
    shared = [f"data.path={text}", "train.batch_size=4", "optim.learning_rate=1e-2"]
    return [*shared, f"model.kind={kind}", *MODELS[kind]]


@pytest.mark.parametrize("kind", same_work.KINDS)
def test_parameters_and_loss_are_equal_and_the_steps_train(kind: str, tmp_path: Path) -> None:
    from charjax.pytorch import contestant

    words = words_of(kind, tmp_path)
    peer = contestant.build("torch eager", None, words, "cpu")
    config = load_config(None, words)
    assert same_work.why_not(config) is None
    training = workload.prepare(open_session(config))
    ours = {
        "text": training.session.dataset.digest,
        "parameters": parameter_count(training.state.params),
        "loss": workload.exact_loss(training),
    }
    contest.check_same_work("torch eager", peer.facts, ours)
    peer.run(threads=1, count=40)
    assert peer.exact_loss() < 0.95 * peer.facts["loss"]


def test_what_pytorch_cannot_express_is_refused(tmp_path: Path) -> None:
    from charjax.pytorch import contestant

    words = [*words_of("transformer", tmp_path), "model.positions=rotary"]
    with pytest.raises((LeftOut, UserError)):
        contestant.build("torch eager", None, words, "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(LeftOut, match="without CUDA"):
            contestant.build("torch eager", None, words_of("gru", tmp_path), "gpu")
