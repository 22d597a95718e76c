"""Signals and kills to any of two processes at random moments; the run is resumed to the same bits.

`make slow` has the twenty of each that docs/distributed.md promises.
"""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests.several import Several, largest_difference, last_step

pytestmark = [pytest.mark.slow, pytest.mark.longest]
# Nobody may hang for longer.
LIMIT = 60.0
STEPS = 12_000


def words_of(folder: Path) -> list[object]:
    text = folder / "text.txt"
    text.write_text("".join(f"the cat {n % 7} sat on the mat and ran off\n" for n in range(120)))
    return [
        *(f"data.path={text}", "model.kind=gru", "model.context_length=8", "model.d_embed=4"),
        *("model.d_hidden=8", f"train.steps={STEPS}", "train.batch_size=4", "train.log_every=500"),
        *("eval.every=3000", "checkpoint.every=1000", "train.sample_every=0"),
    ]


def digest(directory: Path) -> str:
    found: str = json.loads((directory / "summary.json").read_text())["state_digest"]
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("times", [2, 20])
def test_any_process_at_any_moment(number: signal.Signals, times: int, tmp_path: Path) -> None:
    rng, words = random.Random(times), words_of(tmp_path)
    undisturbed = tmp_path / "undisturbed"
    with Several(tmp_path, 2, [*words, "--workdir", undisturbed]) as several:
        assert several.wait(600) == [0, 0], several.report()
    runs, done, finished = 0, 0, False
    while done < times or not finished:
        directory = tmp_path / f"run-{runs}"
        resume = ["--resume"] * (directory / "config.toml").exists()
        with Several(tmp_path, 2, [*words, "--workdir", directory, *resume]) as several:
            if done < times:
                wait_a_while(several, directory, rng)
                done += disturb(several, number, rng.randrange(2))
            else:
                assert several.wait(600) == [0, 0], several.report()
        if finished := (directory / "summary.json").exists():
            assert largest_difference(directory, undisturbed) == 0
            assert digest(directory) == digest(undisturbed)
            runs += 1


def wait_a_while(several: Several, directory: Path, rng: random.Random) -> None:
    """Wait until a random moment: while the run starts, or after some of its steps."""
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 8))
        return
    before = last_step(directory)
    goal = min(before + rng.randrange(1, 2000), STEPS - 500)
    several.until(lambda: last_step(directory) > goal or (directory / "summary.json").exists(), 300)
    time.sleep(rng.uniform(0, 0.5))


def disturb(several: Several, number: signal.Signals, victim: int) -> bool:
    """Send a signal to a process; return False if it came after the end of the run."""
    several.started[victim].process.send_signal(number)
    statuses = several.wait(LIMIT)
    if statuses == [0, 0]:
        return False
    other = several.started[1 - victim]
    report = several.report()
    if number == signal.SIGKILL and statuses[victim] == -9:
        assert len(other.errors) == 1, report
        if statuses[1 - victim] == 2:
            # It was killed before it had come.
            assert "40 s" in other.errors[0], report
            return True
        assert statuses[1 - victim] == 1, report
        assert other.errors[0].startswith(f"error: process {victim}: "), report
    # While Python starts, a signal ends the process at once; the other misses it.
    elif statuses[victim] == -15:
        assert statuses[1 - victim] in (1, 2), report
        assert len(other.errors) == 1, report
    else:
        assert statuses == [128 + number] * 2, report
    return True
