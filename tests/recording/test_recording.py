"""The recording script finds what it should, and nothing that differs from run to run."""

import json
from pathlib import Path

from tests.recording.compare import differences
from tests.recording.reading import numbers, read_folder, stripped

META = {
    "leaves": {"params/w": {"sha256": "a" * 64}},
    "sha256": "b" * 64,
    "meta": {"progress": {"wall_seconds": 1.5, "val_loss": 2.5, "events_done": 3}},
}


def test_losses_and_digests_of_leaves_stay_and_times_go():
    assert stripped(META) == {
        "leaves": {"params/w": {"sha256": "a" * 16}},
        "meta": {"progress": {"val_loss": 2.5, "events_done": 3}},
    }
    line = {"step": 1, "tokens_per_second": 3.0, "finished": [True], "device": "cpu", "devices": 2}
    assert stripped(line) == {"step": 1, "finished": [True], "devices": 2}
    assert stripped({"finished": "2026-11-28T22:32:10+00:00"}) == {}


def test_a_folder_is_its_files_and_what_is_in_them(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "seconds": 3}\n')
    (tmp_path / "run" / "runs.csv").write_text("scheme,loss\nmup,2.5\n")
    found = read_folder(tmp_path)
    assert found["files"] == ["run/metrics.jsonl", "run/runs.csv"]
    assert found["run/metrics.jsonl"] == [{"step": 1, "loss": 2.0}]
    assert found["run/runs.csv"] == [["scheme", "loss"], ["mup", 2.5]]


def test_a_difference_is_found_wherever_it_is():
    before = {"case": {"loss": 2.0, "steps": 3, "files": ["a", "b"], "state_digest": "x"}}
    changed = {"loss": 2.0 + 1e-9, "steps": 4, "files": ["a"], "state_digest": "y"}
    for key, value in changed.items():
        after = json.loads(json.dumps(before))
        after["case"][key] = value
        assert [line.split(":")[0] for line in differences(before, after)] == [f"/case/{key}"]
    assert list(differences(before, {})) == ["/case: only before"]
    assert list(differences(before, before)) == []


def test_a_tolerance_is_for_rounding_alone():
    before = {"loss": 2.0, "steps": 3, "state_digest": "x", "config_digest": "c"}
    rounded = before | {"loss": 2.0 + 1e-7, "state_digest": "y"}
    assert list(differences(before, rounded, 1e-6)) == []
    assert len(list(differences(before, rounded, 1e-8))) == 1
    assert len(list(differences(before, before | {"steps": 4}, 1e-6))) == 1
    assert len(list(differences(before, before | {"config_digest": "d"}, 1e-6))) == 1


def test_the_numbers_in_a_sentence():
    assert numbers("better: -0.0640 (−1,125 to 2e-3), p = 0.031") == [-0.064, -1125, 0.002, 0.031]
