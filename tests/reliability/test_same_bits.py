"""The same bits, again and again, also while other threads want the cores.

Of a training with as many threads; of batches, and of what the C++ code computes, with any number
of them (PyTorch's own products of matrices may depend on it).
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import zlib
from contextlib import contextmanager
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
from tests.kernels import test_deferred_adam as adam_tests
from tests.kernels import test_multi_interest_ihn_loss_native as loss_tests

ROOT = Path(__file__).parents[2]
THREADS = 2


def loader(dataset, **options):
    settings = {"batch_size": 32, "max_history": 8, "seed": 5} | options
    return BatchLoader(dataset.items, dataset.train_users, dataset.train_spans, **settings)


@contextmanager
def busy():
    """Two threads that want the cores, and the interpreter's lock, now and again."""
    stopped = threading.Event()

    def work():
        while not stopped.wait(0.0005):
            zlib.crc32(bytes(1 << 20))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        stopped.set()
        for worker in workers:
            worker.join()


def trained(path, name, sampling, steps):
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
    with loader(dataset, threads=2, sampling=sampling) as batches:
        losses = [
            step(n, b.history, b.length, b.target) for n, b in islice(enumerate(batches), steps)
        ]
    values = [[loss.total, loss.ranking, loss.rr] for loss in losses]
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
from tests.reliability.test_same_bits import busy, trained
path, name, sampling, steps = sys.argv[1:]
with busy():
    print(json.dumps(trained(path, name, sampling, int(steps))))
"""


@pytest.fixture
def threads():
    before = C.num_threads(), torch.get_num_threads()
    yield
    C.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.parametrize("name, sampling", [("comirec-sa", "uniform"), ("mind", "epoch")])
def test_a_training_has_the_same_bits_every_time(name, sampling, dataset, threads, at_scale):
    steps, times = at_scale((40, 3), (1000, 20))
    first = trained(dataset.path, name, sampling, steps)
    assert {"losses", "table.weight", "exp_avg", "stamp", "dense 0 exp_avg_sq"} <= first.keys()
    for _ in range(times - 2):
        assert trained(dataset.path, name, sampling, steps) == first
    words = [sys.executable, "-c", IN_A_PROCESS, str(dataset.path), name, sampling, str(steps)]
    environment = os.environ | {"GOMP_SPINCOUNT": "2000"}  # as the command line has it
    alone = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(alone.stdout) == first
    print(f"{name}: {len(first)} tensors after {steps} steps, {times} times alike")  # noqa: T201


@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_batches_are_the_same_for_any_number_of_threads(sampling, dataset, at_scale):
    steps = at_scale(200, 20_000)

    def order(threads, ring):
        """A checksum of all batches; they are large, so that one is often waited for."""
        seen = 0
        options = {"sampling": sampling, "threads": threads, "ring": ring, "batch_size": 1024}
        with loader(dataset, **options) as batches:
            for batch in islice(batches, steps):
                for tensor in batch[1:]:
                    seen = zlib.crc32(tensor.numpy(), seen)
        return seen

    expected = order(1, 3)
    for threads in (1, 2, 7, 16):
        for ring in (3, 8):
            assert order(threads, ring) == expected
        with busy():
            assert order(threads, 4) == expected


def adam():
    state, table = adam_tests.trained.__wrapped__(
        150, adam_tests.warm_up_and_cosine, torch.float32, "native"
    )
    read = adam_tests.kernel.read(state, table, torch.arange(len(state.weight)))
    late = adam_tests.copies(state)
    adam_tests.kernel.flush(state, table)
    return [read, *late, *adam_tests.copies(state)]


def loss():
    inputs = loss_tests.make(70, 4, 20, 300, 7)
    return loss_tests.with_gradients(lambda *x: loss_tests.ours(*x, beta=0.3), inputs)


def extractor():
    generator = torch.Generator().manual_seed(0)
    hidden, projection = (torch.randn(n, 50, generator=generator) for n in (333, 4))
    logits, gradient = torch.empty(333, 4), torch.empty(333, 50)
    C.tanh_project(hidden.numpy(), projection.numpy(), logits.numpy())
    C.tanh_project_backward(*(x.numpy() for x in (hidden, projection, logits, gradient)))
    return [hidden, logits, gradient]


@pytest.mark.parametrize("operation", [adam, loss, extractor])
def test_the_number_of_threads_changes_no_bit(operation, threads, at_scale):
    C.set_num_threads(1)
    expected = operation()
    for _ in range(at_scale(1, 20)):
        for number in (1, 2, 7, 16):
            C.set_num_threads(number)
            with busy():
                found = operation()
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), number
