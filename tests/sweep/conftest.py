"""Sweeps without training."""

import json
import math

import pytest

from remi_fast.sweep import SweepFolder
from remi_fast.sweep.table import METRICS


def recall(trial):
    """Made up: best at beta 1, and a little better with each seed."""
    beta = float(dict(trial.settings).get("loss.beta", "1")) or 1e-3
    return 0.4 / (1 + math.log10(beta) ** 2) + 0.001 * trial.seed


def metrics(value):
    return dict.fromkeys(METRICS, value)


def train(folder, trial, data, jobs=1):
    """A result, and a curve towards it, in the place of `SweepFolder.train`. The test disagrees
    with the validation."""
    if dict(trial.settings).get("optim.lr") == "9":
        return "it diverged"
    file = trial.folder / "result.json"
    if not file.exists():
        trial.folder.mkdir()
        value = recall(trial)
        curve = [{"step": 10 * i, "split": "valid", "recall@50": value * i / 4} for i in range(5)]
        lines = [{"step": 5, "loss": 1.0}, *curve[: 5 - (trial.seed == 2)]]
        (trial.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        result = {"valid": metrics(value), "test": metrics(0.9 - value)}
        file.write_text(json.dumps(result))
    return json.loads(file.read_text())


@pytest.fixture
def made_up(monkeypatch):
    """No sweep trains; the trials that would have been are listed."""
    trained = []

    def train_and_note(folder, trial, data, jobs):
        if not (trial.folder / "result.json").exists():
            trained.append(trial)
        return train(folder, trial, data)

    monkeypatch.setattr(SweepFolder, "train", train_and_note)
    return trained
