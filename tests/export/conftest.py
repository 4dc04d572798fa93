"""Trained runs of every model, and exports of them."""

import pytest

from remi_fast.cli import main
from remi_fast.export import export_run

SMALL = (
    "--model.dim=8",
    "--model.num_interests=3",
    "--model.max_history=6",
    "--loss.num_negatives=16",
    "--train.batch_size=16",
    "--train.steps=40",
    "--train.eval_every=20",
    "--train.threads=1",
)
MODELS = ("comirec-sa", "comirec-dr", "mind", "dnn", "gru4rec")


@pytest.fixture(scope="session")
def runs(dataset, tmp_path_factory):
    """The run folder of a model, trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name):
        path = folder / name
        if not path.exists():
            words = ["train", str(dataset.path), "--out", str(path), f"--model.name={name}"]
            assert main([*words, *SMALL]) == 0
        return path

    return run


@pytest.fixture(scope="session")
def exported(runs, tmp_path_factory):
    """The folder of a model's export in all formats, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("exports")

    def export(name):
        path = folder / name
        if not path.exists():
            export_run(runs(name), path)
        return path

    return export
