"""The batch loader against its documented formulas, for any number of threads."""

import gc
import os
import sys
import threading
import time

import numpy as np
import pytest
import torch

from remi_fast.data.loader import HELD, BatchLoader, make_sampler
from remi_fast.errors import DataError
from remi_fast.kernels.permutation import permute
from remi_fast.kernels.philox import TARGETS, USERS, bounded, random_words

SEED = 2**40 + 3


def make(lengths=(9, 4, 30, 5, 12, 1, 7, 18), gap=2):
    """Spans with items that belong to nobody between them; every item value is its position + 1."""
    starts = np.cumsum([gap, *(n + gap for n in lengths)])[:-1]
    spans = np.stack([starts, starts + lengths], axis=1).astype(np.int64)
    items = np.arange(1, spans[-1, 1] + gap + 1, dtype=np.int32)
    users = np.arange(len(lengths), dtype=np.int32) * 3 + 1
    return items, users, spans


def loader(data=None, **changes):
    options = {"batch_size": 4, "max_history": 6, "seed": SEED, "threads": 1} | changes
    return BatchLoader(*(make() if data is None else data), **options)


def expected(data, step, *, batch_size=4, max_history=6, min_history=4, sampling="uniform"):
    """One batch in plain Python, from the formulas in the module's docstring."""
    items, users, spans = data
    rows = [i for i, (a, b) in enumerate(spans) if b - a > min_history]
    samples = []
    if sampling == "epoch":
        targets = [(i, p) for i in rows for p in range(min_history, spans[i][1] - spans[i][0])]
        for b in range(batch_size):
            epoch, number = divmod(step * batch_size + b, len(targets))
            samples.append(targets[permute(number, len(targets), seed=SEED, step=epoch)[0]])
    else:
        for b in range(batch_size):
            if len(rows) >= batch_size:
                row = rows[permute(b, len(rows), seed=SEED, step=step)[0]]
            else:
                row = rows[bounded(random_words(b, step, USERS, SEED), len(rows))[0]]
            positions = spans[row][1] - spans[row][0] - min_history
            words = random_words(b, step, TARGETS, SEED)
            samples.append((row, min_history + bounded(words, positions)[0]))
    made = []
    for row, place in samples:
        start = spans[row][0]
        past = items[max(start, start + place - max_history) : start + place].tolist()
        padded = past + [0] * (max_history - len(past))
        made.append((padded, len(past), int(items[start + place]), int(users[row])))
    return [list(column) for column in zip(*made, strict=True)]


def values(batch):
    return [tensor.tolist() for tensor in batch[1:]]


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
@pytest.mark.parametrize("start", [0, 1000])
def test_formulas(threads, sampling, start):
    data = make()
    with loader(data, threads=threads, sampling=sampling, start_step=start) as batches:
        for step, batch in zip(range(start, start + 60), batches, strict=False):
            assert batch.step == step
            assert values(batch) == expected(data, step, sampling=sampling)
        far = batches.batch(2**31)
        assert values(far) == expected(data, 2**31, sampling=sampling)


@pytest.mark.parametrize("width", [1, 3, 50])
@pytest.mark.parametrize("least", [1, 4, 10])
def test_other_widths_and_least_histories(width, least):
    data = make()
    with loader(data, max_history=width, min_history=least, batch_size=2) as batches:
        for step in range(30):
            wanted = expected(data, step, max_history=width, min_history=least, batch_size=2)
            assert values(batches.batch(step)) == wanted


def test_batches_larger_than_a_chunk():
    data = make(lengths=tuple(5 + i % 40 for i in range(600)))
    for sampling in ("uniform", "epoch"):
        with loader(data, batch_size=300, sampling=sampling) as batches:
            assert values(next(batches)) == expected(data, 0, batch_size=300, sampling=sampling)


def test_different_users_in_a_batch_or_replacement():
    with loader(batch_size=6) as batches:
        assert batches.num_users == 6 and batches.skipped_users == 2
        assert not batches.with_replacement
        assert all(len(set(batches.batch(t).user.tolist())) == 6 for t in range(50))
    data = make()
    with loader(data, batch_size=7) as batches:
        assert batches.with_replacement
        assert values(batches.batch(3)) == expected(data, 3, batch_size=7)


def test_epoch_holds_every_target_once():
    data = make()
    items, users, spans = data
    targets = [int(items[p]) for a, b in spans for p in range(a + 4, b)]
    with loader(data, sampling="epoch", batch_size=5) as batches:
        stream = []
        while len(stream) < 3 * len(targets):
            stream += next(batches).target.tolist()
    epochs = [stream[i * len(targets) : (i + 1) * len(targets)] for i in range(3)]
    assert all(sorted(epoch) == targets for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_ring_views_without_copies_and_keeps_what_is_held():
    with loader(ring=4, threads=2) as batches:
        taken = []
        for _ in range(40):
            taken.append(next(batches))
            time.sleep(0.002)  # for the threads to fill what they may, and what they may not
            for batch in taken[-HELD:]:
                assert values(batch) == values(batches.batch(batch.step))
        assert len({batch.history.data_ptr() for batch in taken}) == 4
        own = batches.batch(0)
        assert own.history.data_ptr() not in {batch.history.data_ptr() for batch in taken}


def test_closing():
    batches = loader(threads=3)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(batches)
    assert values(batches.batch(5)) == expected(make(), 5)
    for _ in range(20):
        loader(threads=3)  # dropped while open
    gc.collect()


@pytest.fixture
def only_given_up():
    """A thread of Python gives the interpreter to another one of its own accord only."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def test_other_python_threads_run_while_a_batch_is_made(only_given_up):
    sampler = make_sampler(
        *make(lengths=(2000,) * 400, gap=0), batch_size=1000, max_history=1900,
        seed=SEED, sampling="uniform", min_history=4,
    )  # fmt: skip
    shapes = (1000, 1900), 1000, 1000, 1000
    buffers = [np.empty(shape, np.int32) for shape in shapes]
    turns, over = [], threading.Event()

    def take_turns():
        while not over.is_set():
            turns.append(1)
            time.sleep(0)  # gives it up

    def others_ran():
        before = len(turns)
        sampler.fill(0, *buffers)
        return len(turns) > before

    other = threading.Thread(target=take_turns)
    other.start()
    try:
        assert any(others_ran() for _ in range(1000)), "the interpreter was held, every time"
    finally:
        over.set()
        other.join()


def test_a_forked_child_cannot_use_it():
    with loader() as batches:
        child = os.fork()
        if child == 0:
            try:
                next(batches)
            except RuntimeError as error:
                os._exit(0 if "forked" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0


def broken(name, value):
    data = dict(zip(("items", "users", "spans"), make(), strict=True))
    data[name] = value(data[name])
    return tuple(data.values())


def set_to(index, value):
    def change(array):
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    "data, message",
    [
        (
            broken("items", lambda a: a.astype(np.int64)),
            "items: got int64, contig.* int32",
        ),
        (broken("items", lambda a: np.repeat(a, 2)[::2]), "not contiguous"),
        (broken("items", set_to(5, 0)), r"items\[5\] = 0, expected an item index >= 1"),
        (broken("users", set_to(1, 1)), "1 occurs twice"),
        (broken("users", set_to(0, -1)), "user indices >= 0"),
        (broken("users", lambda a: a[:-1].copy()), r"spans: expected shape \(7, 2\)"),
        (broken("spans", set_to((0, 0), -1)), r"spans\[0\] = -1"),
        (broken("spans", set_to((2, 1), 10**6)), r"spans\[2\] = .* to 1000000"),
        (make(lengths=(4, 2)), "no user to train on: none of the 2 spans has more than"),
        (tuple(a[:0].copy() for a in make()), "no user to train on"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(DataError, match=message):
        loader(data)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sampling": "epochs"}, "sampling: got 'epochs', expected 'uniform' or 'epoch'"),
        ({"batch_size": 0}, "batch_size: got .*, expected a number in"),
        ({"max_history": 0}, "max_history: got .*, expected a number in"),
        ({"ring": 2}, "ring: got .*, expected a number in"),
        ({"threads": -1}, "threads: got .*, expected a number in"),
        ({"start_step": 2**32}, "start_step: got .*, expected a number in"),
        ({"seed": -1}, "seed: got .*, expected a number in"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        loader(**change)


def test_the_last_step_is_not_passed():
    with loader(start_step=2**32 - 1) as batches:
        assert values(next(batches)) == expected(make(), 2**32 - 1)
        with pytest.raises(ValueError, match="beyond the last"):
            next(batches)


def test_tensors_are_int32():
    with loader() as batches:
        assert {tensor.dtype for tensor in next(batches)[1:]} == {torch.int32}
