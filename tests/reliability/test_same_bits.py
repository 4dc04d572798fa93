"""The same bits, again and again: of a training, and of the batches for any number of threads."""

import hashlib
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from remi_fast.config import Config, LossConfig, ModelConfig, OptimConfig, TrainConfig
from remi_fast.data.dataset import Dataset
from remi_fast.data.loader import BatchLoader
from remi_fast.kernels.native import C
from remi_fast.training.step import TrainingStep
from remi_fast.training.trainer import new_model, set_threads

ROOT = Path(__file__).parents[2]
THREADS = 2


def loader(dataset, **options):
    settings = {"batch_size": 32, "max_history": 8, "seed": 5} | options
    return BatchLoader(dataset.items, dataset.train_users, dataset.train_spans, **settings)


def trained(path, name, steps):
    """Of everything that a fresh training of so many steps computes, its checksum by name."""
    set_threads(THREADS)
    dataset = Dataset.open(path)
    config = Config(
        model=ModelConfig(name=name, dim=16, num_interests=3, max_history=8),
        loss=LossConfig(rr_lambda=1.0, num_negatives=128),
        optim=OptimConfig(lr=0.01),
        train=TrainConfig(batch_size=32, seed=5),
    )
    step = TrainingStep(new_model(config, dataset.num_items), config)
    with loader(dataset, threads=2) as batches:
        losses = [
            step(n, b.history, b.length, b.target) for n, b in islice(enumerate(batches), steps)
        ]
    values = [[loss.total, loss.ihn, loss.rr] for loss in losses]
    found = {"losses": torch.tensor(values, dtype=torch.float64)}
    found |= step.model.state_dict()
    table = step.table_optimizer.state_dict()
    found |= {name: table[name] for name in ("exp_avg", "exp_avg_sq", "stamp")}
    for index, state in step.dense_optimizer.state_dict()["state"].items():
        found |= {f"dense {index} {name}": value for name, value in state.items()}
    return {name: checksum(value) for name, value in found.items()}


def checksum(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


IN_A_PROCESS = """
import json, sys
from tests.reliability.test_same_bits import trained
path, name, steps = sys.argv[1:]
print(json.dumps(trained(path, name, int(steps))))
"""


@pytest.fixture
def threads():
    before = C.num_threads(), torch.get_num_threads()
    yield
    C.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.parametrize("name", ["comirec-sa", "mind"])
def test_a_training_has_the_same_bits_every_time(name, dataset, threads, at_scale):
    steps, times = at_scale((40, 3), (1000, 20))
    first = trained(dataset.path, name, steps)
    assert {"losses", "table.weight", "exp_avg", "stamp", "dense 0 exp_avg_sq"} <= first.keys()
    for _ in range(times - 2):
        assert trained(dataset.path, name, steps) == first
    words = [sys.executable, "-c", IN_A_PROCESS, str(dataset.path), name, str(steps)]
    alone = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(alone.stdout) == first
    print(f"{name}: {len(first)} tensors after {steps} steps, {times} times alike")  # noqa: T201


@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_batches_are_the_same_for_any_number_of_threads(sampling, dataset, at_scale):
    steps = at_scale(200, 20_000)

    def order(threads, ring):
        """A checksum of all batches, each taken as soon as it is there."""
        seen = hashlib.sha256()
        with loader(dataset, sampling=sampling, threads=threads, ring=ring) as batches:
            for batch in islice(batches, steps):
                for tensor in batch[1:]:
                    seen.update(tensor.numpy().tobytes())
        return seen.hexdigest()

    alike = {(threads, ring): order(threads, ring) for threads in (1, 2, 7, 16) for ring in (3, 8)}
    assert len(set(alike.values())) == 1, alike
