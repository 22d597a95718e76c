"""Run directories that no training made."""

import json
import math
from pathlib import Path

from charjax.config import load_config


def write_run(directory: Path, *words: str, lines: int = 40, level: float = 1.5) -> Path:
    """Write config.toml and metrics.jsonl: a loss that falls to `level`, one line per step."""
    directory.mkdir(parents=True)
    config = load_config(None, [f"train.steps={lines}", "model.context_length=8", *words])
    (directory / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    with (directory / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, lines + 1):
            loss = level + 2.5 * math.exp(-8 * step / lines) + 0.1 * math.sin(12.9898 * step)
            write_line(file, step, "train", loss, 1e-3, 0.5 + 0.3 * math.sin(step))
            if step % max(1, lines // 20) == 0:
                write_line(file, step, "val", loss + 0.05, None, None)
    return directory


def write_line(file, step, split, loss, rate, norm) -> None:
    line = {"step": step, "split": split, "loss": loss, "bpc": loss / math.log(2)}
    line |= {"learning_rate": rate, "grad_norm": norm, "tokens_per_second": 1e4}
    file.write(json.dumps(line) + "\n")
