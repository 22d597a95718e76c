"""Notes of a run that goes on otherwise than it began."""

import pytest

from charjax.config import load_config
from charjax.run.notes import changed_measure


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ([], [], None),
        (["eval.every=5"], ["eval.batch_size=8"], None),
        ([], ["eval.max_targets=9"], "eval.max_targets was unset and is 9: validation losses so"),
        (["eval.protocol=random"], [], 'eval.protocol was "random" and is "exact": '),
        (
            ["model.kind=gru", "eval.streams=2", "eval.warmup=3"],
            ["model.kind=gru"],
            "eval.streams was 2 and is 1, eval.warmup was 3 and is 256: ",
        ),
    ],
)
def test_losses_that_cannot_be_compared(old: list[str], new: list[str], said: str | None):
    note = changed_measure(load_config(None, old), load_config(None, new))
    assert (note is None) == (said is None)
    assert note is None or note.startswith(str(said))
