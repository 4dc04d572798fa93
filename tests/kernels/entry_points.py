"""Every entry point of the C++ extension that takes a buffer, over odd sizes, with NumPy alone.

`python -m tests.kernels.entry_points COUNT` runs COUNT problems of each kind on guarded buffers,
and fails where an entry point was never called; `... control` reads too much and has to die of it.
"""

import sys
from functools import wraps
from mmap import mmap

import _remi_fast_C as C
import numpy as np

from tests.kernels.pages import between_guards


def guarded(x, at_end):
    """A copy of x that ends right before, or starts right after, a forbidden page."""
    x = np.asarray(x)
    if x.size == 0:
        return x
    region, offset = between_guards(x.nbytes, at_end)
    copy = np.frombuffer(region, x.dtype, x.size, offset).reshape(x.shape)
    copy[...] = x
    return copy


def unguarded(x):
    """A copy of x, aligned as torch aligns its memory."""
    x = np.asarray(x)
    memory = np.empty(x.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def is_guarded(x):
    """Whether `guarded` made it."""
    while isinstance(x, np.ndarray):
        x = x.base
    return isinstance(x, memoryview | mmap)


def buffers_of(arguments):
    for x in arguments:
        if isinstance(x, np.ndarray):
            yield x
        elif isinstance(x, list):
            yield from buffers_of(x)


def entry_points():
    """(owner, name) of every function, method and constructor that takes a buffer."""
    owners = [C, *(x for x in vars(C).values() if isinstance(x, type))]
    for owner in owners:
        for name, entry in vars(owner).items():
            if callable(entry) and "numpy.typing" in (entry.__doc__ or ""):
                yield owner, name


def watch(seen):
    """Add (owner, name) to `seen` when an entry point was called with guarded buffers only."""

    def watched(owner, name, entry):
        @wraps(entry)
        def call(*arguments):
            if all(is_guarded(x) or x.size == 0 for x in buffers_of(arguments)):
                seen.add((owner, name))
            return entry(*arguments)

        return call

    for owner, name in list(entry_points()):
        setattr(owner, name, watched(owner, name, getattr(owner, name)))


# --- problems: place(array) is where its memory comes from; each returns all that was computed ---


def draw(rng, *ends):
    return [int(rng.integers(1, end)) for end in ends]


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def batches(rng, place):
    """The first span starts with the items, the last one ends with them."""
    lengths = rng.integers(5, 40, rng.integers(1, 20))
    ends = np.cumsum(lengths)
    items = place(rng.integers(1, 99, ends[-1], dtype=np.int32))
    users = place(rng.permutation(len(ends)).astype(np.int32))
    spans = place(np.stack([ends - lengths, ends], axis=1))
    (width, threads), size = draw(rng, 50, 4), draw(rng, rng.choice([9, 300]))[0]
    shapes = (size, width), (size,), (size,), (size,)
    results = []
    for every_target_once in (False, True):
        options = size, width, int(rng.integers(5)), 2**40 + 3, every_target_once
        sampler = C.BatchSampler(items, users, spans, *options)
        one = [place(np.zeros(shape, np.int32)) for shape in shapes]
        sampler.fill(10**6, *one)
        slots = [place(np.zeros((4, *shape), np.int32)) for shape in shapes]
        ring = C.BatchRing(sampler, *slots, 0, threads)
        results += [np.copy(x[ring.next() % 4]) for _ in range(9) for x in slots]
        ring.close()
        results += one
    return results


def adam(rng, place):
    """The tables of step sizes end with the last step."""
    rows, dim, steps = draw(rng, 40, 40, 60)
    numbers = np.arange(1, steps + 1)
    state = [place(np.abs(normal(rng, rows, dim))) for _ in range(3)]
    state.append(place(np.zeros(rows, np.int32)))
    step_size = place(np.append(0, 1e-3 / (1 - 0.9**numbers)))
    correction = place(np.append(0, 1 / np.sqrt(1 - 0.999**numbers)))
    view = C.AdamView(*state, 0.9, 0.999, 1e-8, step_size, correction)
    results = []
    for t in np.unique([*rng.integers(1, steps + 1, 4), steps]).tolist():
        ids = place(rng.integers(0, rows, draw(rng, 50)))
        plan = C.GatherPlan(ids, rows)
        out = [place(np.zeros((len(ids), dim), np.float32)) for _ in range(2)]
        view.read(t - 1, ids, out[0])
        view.gather(t - 1, plan, out[1], True)
        gradients = place(normal(rng, len(ids), dim))
        results += out
        view.update(t, plan, gradients)
    view.flush(steps)
    return results + state


def dense_adam(rng, place):
    """Every array by itself."""
    sizes = draw(rng, 99, 99, 9)
    weights, first, second = ([place(np.abs(normal(rng, n))) for n in sizes] for _ in range(3))
    steps = [place(np.ones(1, np.float32)) for _ in sizes]
    adam = C.DenseAdam(weights, first, second, steps, 0.9, 0.999, 1e-8)
    for _ in range(2):
        adam.step(1e-3, [place(normal(rng, n)) for n in sizes])
    return [*weights, *first, *second, *steps]


def loss(rng, place):
    """With everything that may be there, or none of it; the backward pass has its own blocks."""
    b, k, d, n, length = draw(rng, 70, 5, 70, 150, 9)
    everything, keep = rng.integers(2, size=2)

    def maybe(x):
        return place(x) if everything else None

    def made(*shape, dtype=np.float32):
        return place(np.zeros(shape, dtype))

    inputs = [place(normal(rng, *shape)) for shape in ((b, k, d), (b, d), (n, d))]
    inputs += [maybe(normal(rng, b, k, length)), maybe(rng.integers(9, size=b))]
    inputs += [maybe(rng.integers(9, size=n)), maybe(np.abs(normal(rng, n))), maybe(normal(rng, b))]
    call = C.IhnCall(*inputs, float(rng.choice([0, 0.37, 1])), 0.5, bool(rng.integers(2)))
    rr = made(b) if everything else None
    roots = made(-(-b // C.IHN_LANES), n, C.IHN_LANES) if keep else None
    saved = [made(b, dtype=np.int64), made(4, b), made(b, d), roots]
    out = made(b)
    call.forward(out, saved[0], rr, *saved[1:])
    gradients = [np.zeros_like(x) for x in inputs[:4] if x is not None]
    gradients = [*map(place, gradients), *([] if everything else [None])]
    call.backward(*saved, place(normal(rng, b)), maybe(normal(rng, b)), *gradients)
    return [x for x in (out, rr, *saved, *gradients) if x is not None]


def extractor(rng, place):
    rows, width, k = draw(rng, 40, 70, 6)
    hidden, projection, upward = (
        place(normal(rng, *shape)) for shape in ((rows, width), (k, width), (rows, k))
    )
    logits, downward = (place(np.zeros(s, np.float32)) for s in ((rows, k), (rows, width)))
    C.tanh_project(hidden, projection, logits)
    C.tanh_project_backward(hidden, projection, upward, downward)
    return hidden, logits, downward


def capsules(rng, place):
    b, k, length, d = draw(rng, 20, 5, 20, 40)
    one, through = rng.integers(2, size=2)
    votes = place(normal(rng, b, 1 if one else k, length, d))
    lengths = place(rng.integers(length + 1, size=b))
    logits = place(normal(rng, 1 if one else b, k, length))
    interests, routing = (place(np.zeros((b, k, n), np.float32)) for n in (d, length))
    C.capsule_routing(votes, lengths, logits, interests, routing)
    slopes = place(normal(rng, b, k, d)), place(normal(rng, b, k, length)) if through else None
    gradient = place(np.ones_like(votes))
    C.capsule_routing_backward(votes, lengths, logits, routing, *slopes, gradient)
    return interests, routing, gradient


def searches(rng, place):
    n, k, d, most, num_seen = draw(rng, 30, 5, 40, 20, 4)
    interests, seen = place(normal(rng, n, k, d)), place(rng.integers(99, size=(n, num_seen)))
    search = C.InterestSearch(interests, most, seen)
    first = 1
    for size in rng.integers(1, 80, 3).tolist():
        search.add(place(normal(rng, size, d)), first)
        first += size
    return search.result()


def numbers(rng, place):
    """Random words, permutations, negatives, and whether numbers are finite."""
    n = draw(rng, 100)[0]
    index, negatives = place(rng.integers(n, size=draw(rng, 50))), place(np.zeros(n, np.int64))
    C.sample_negatives(negatives, 1000, 7, 3)
    threshold, alias, weighted = (place(np.zeros(n, t)) for t in (np.int64, np.int32, np.int64))
    C.alias_table(place(rng.random(n)), threshold, alias)
    C.sample_by_alias(weighted, threshold, alias, 7, 3)
    parts = [place(normal(rng, *draw(rng, 99))) for _ in range(3)]
    whole = place(np.zeros(sum(part.size for part in parts), np.float32))
    finite = C.all_finite(parts), C.join(parts, whole)
    words, permuted = C.random_words(index, 1, 2, 3), C.permute(index, n, 5, 1, 9)
    return words, permuted, negatives, threshold, alias, weighted, whole, np.asarray(finite)


PROBLEMS = (batches, adam, dense_adam, loss, extractor, capsules, searches, numbers)


def run(count):
    """The same bits from memory that ends at a guard, starts at one, and is NumPy's own."""
    seen = set()
    watch(seen)
    places = [lambda x: guarded(x, True), lambda x: guarded(x, False), unguarded]
    for seed in range(count):
        for problem in PROBLEMS:
            print(problem.__name__, seed, flush=True)  # noqa: T201
            one, *others = (problem(np.random.default_rng(seed), place) for place in places)
            for other in others:
                for a, b in zip(one, other, strict=True):
                    np.testing.assert_array_equal(a, b)
    missing = set(entry_points()) - seen
    assert not missing, f"not called with guarded buffers: {missing}"


def control():
    """A size that is not the buffer's: what a missing check would let through."""
    x = guarded(np.ones(5, np.float32), at_end=True)
    longer = np.lib.stride_tricks.as_strided(x, (1, 1 << 12), (4 << 12, 4), writeable=True)
    print("reading too much", flush=True)  # noqa: T201
    C.tanh_project(longer, guarded(np.ones((1, 1 << 12), np.float32), True), np.ones((1, 1), "f"))


if __name__ == "__main__":
    control() if sys.argv[1] == "control" else run(int(sys.argv[1]))
    print("done", flush=True)  # noqa: T201
