"""What ThreadSanitizer watches: `schedules.py JITTER COUNT` runs COUNT random schedules.

NumPy and the extension alone: torch and ThreadSanitizer do not go together. Python threads call
into everything that has threads of its own, all at once, while `jitter.c` (the library JITTER,
preloaded) rests at random; the numbers of threads, sizes and moments are drawn, too.
"""

import ctypes
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import _remi_fast_C as C
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.kernels.entry_points import adam, capsules, extractor, loss, numbers, unguarded

ITEMS, USERS = 3000, 60


def ring(rng):
    """A ring of random size, and its buffers."""
    items = rng.integers(1, 99, ITEMS, dtype=np.int32)
    starts = np.arange(USERS) * (ITEMS // USERS)
    spans = np.stack([starts, starts + rng.integers(6, ITEMS // USERS, USERS)], axis=1)
    size, width, slots, workers = (
        int(rng.integers(*r)) for r in ((1, 200), (1, 9), (3, 9), (1, 9))
    )
    users = np.arange(USERS, dtype=np.int32)
    once = bool(rng.integers(2))
    sampler = C.BatchSampler(items, users, spans, size, width, 4, int(rng.integers(2**62)), once)
    shapes = (slots, size, width), (slots, size), (slots, size), (slots, size)
    buffers = [np.zeros(shape, np.int32) for shape in shapes]
    return sampler, C.BatchRing(sampler, *buffers, 0, workers), buffers


def take(batches, sampler, buffers, pause):
    """A consumer, quick or slow, until the ring is closed: each batch is the one of its step."""
    own = [np.zeros_like(x[0]) for x in buffers]
    while True:
        try:
            step = batches.next()
        except RuntimeError:  # closed
            return
        sampler.fill(step, *own)
        for mine, ours in zip(own, buffers, strict=True):
            np.testing.assert_array_equal(mine, ours[step % len(ours)])
        time.sleep(pause)


def close(batches, after):
    time.sleep(after)
    batches.close()


def resize(sizes):
    """The pool grows and shrinks between, and while others wait for, its loops."""
    for size in sizes:
        C.set_num_threads(size)
        assert C.num_threads() >= 1
        time.sleep(0.002)


def adam_of_two(rng, jobs):
    """One table that two threads read, gather, update and flush."""
    rows, dim, steps = 50, 9, 40
    state = [np.abs(rng.standard_normal((rows, dim), dtype=np.float32)) for _ in range(3)]
    sizes = np.full(steps + 1, 1e-3)
    stamps = np.zeros(rows, np.int32)
    view = C.AdamView(*state, stamps, 0.9, 0.999, 1e-8, sizes, np.ones(steps + 1))

    def work(seed):
        mine = np.random.default_rng(seed)
        for t in range(1, steps):
            ids = mine.integers(0, rows, 30)
            plan, out = C.GatherPlan(ids, rows), np.zeros((30, dim), np.float32)
            view.gather(t - 1, plan, out, False)
            view.update(t, plan, out)
            view.read(t, ids, out)
        view.flush(steps)

    return [jobs.submit(work, seed) for seed in rng.integers(2**32, size=2)]


def schedule(seed):
    """Everything at once."""
    rng = np.random.default_rng(seed)
    with ThreadPoolExecutor(12) as jobs:
        started = adam_of_two(rng, jobs)
        for _ in range(2):
            sampler, batches, buffers = ring(rng)
            started.append(jobs.submit(take, batches, sampler, buffers, rng.choice([0, 0.003])))
            ends = rng.uniform(0, 0.2, 2)
            started += [jobs.submit(close, batches, after) for after in ends]
        started.append(jobs.submit(resize, rng.integers(1, 9, 6).tolist()))
        for problem in rng.permutation([adam, loss, extractor, capsules, numbers]):
            started.append(jobs.submit(partial(problem, np.random.default_rng(seed), unguarded)))
    for job in started:
        job.result()


def main():
    library, count = ctypes.CDLL(sys.argv[1]), int(sys.argv[2])
    library.jitter_rests.restype = ctypes.c_uint64
    for seed in range(1, count + 1):
        library.jitter_start(ctypes.c_uint64(seed))
        schedule(seed)
    rests = library.jitter_rests()
    assert rests > 100 * count, f"only {rests} rests: the jitter is not in the way of the locks"
    print(f"{C.__file__}: {count} schedules, {rests} rests")  # noqa: T201


if __name__ == "__main__":
    main()
