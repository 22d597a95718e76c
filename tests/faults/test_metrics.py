"""Row 20: metrics.jsonl after crashes; every other row checks it at its end too."""

import shutil

from tests.faults.histories import INTERVAL, STEPS, Lab, lines, saved

# What may stand after the last whole line: of a process that died, of a machine that did.
TAILS = {
    "nothing": b"",
    "half a line": b'{"step": 620, "split": "tr',
    "a line without its end": b'{"step": 620, "split": "train", "loss": 1.0}',
    "zeros": bytes(300),
    "noise": bytes(range(255, 127, -1)),
    "half a number": b"62",
}


def test_what_is_written_again_is_cut(faults, lab: Lab):
    row = faults(20, "metrics.jsonl with later lines and a broken end, resumed", few=1)
    kind = row.family(0)
    for tail in row.over(list(TAILS)):
        with row.case(tail):
            directory = lab.copy(lab.whole(kind))
            assert max(lines(directory, "train")) == STEPS
            shutil.rmtree(directory / "checkpoints" / str(max(saved(directory))))
            with (directory / "metrics.jsonl").open("ab") as file:
                file.write(TAILS[tail])
            done = lab.assert_survives(directory, kind)
            assert f"going on from step {STEPS - INTERVAL}" in done.out
            assert done.err == ""
            shutil.rmtree(directory)
