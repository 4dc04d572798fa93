"""Training batches from the users' item sequences, made ahead of time by C++ threads.

Batch t is a pure function of (data, settings, seed, t): the same for any number of threads and any
ring, and any batch can be made at any time. Resuming means starting at another step. With Philox
streams and keyed permutations as in `remi_fast.kernels.philox` and `.permutation`, and for a user
with n items the target positions p in [min_history, n), sample b of batch t is

sampling="uniform" (as published with REMI and ComiRec)
    user   permutation (seed, t) of the eligible users, applied to b: a batch has B different users
           (with fewer than B of them: Philox(index b, step t, USERS), with replacement)
    target uniform among the positions of that user, Philox(index b, step t, TARGETS)
sampling="epoch"
    every target position of every user exactly once per epoch: number g = t B + b of all samples is
    position permutation (seed, g // T) applied to g mod T, of the T positions of all users
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from remi_fast.errors import DataError
from remi_fast.kernels.checks import check_whole
from remi_fast.kernels.native import C
from remi_fast.kernels.philox import check_word, seed_key

Sampling = Literal["uniform", "epoch"]
MIN_HISTORY = 4  # as published
HELD: int = C.BatchRing.HELD


class Batch(NamedTuple):
    """One training batch: int32 tensors, B samples, histories of at most L items."""

    step: int | Tensor  # a tensor where `DeviceBatchLoader.draw` was given it
    history: Tensor  # (B, L) the last items before the target, oldest first, padded with 0 behind
    length: Tensor  # (B,) how many of them are real
    target: Tensor  # (B,)
    user: Tensor  # (B,) user index


class BatchLoader:
    """Iterator over the batches start_step, start_step + 1, ... without end; a context manager.

    items: int32 (nnz,) item indices >= 1, users one after another, each in time order; may be
        memory-mapped and is never copied.
    users: int32 (n,) distinct user indices; spans: int64 (n, 2), the part [start, end) of `items`
        that belongs to each. Users with fewer than min_history + 1 items are skipped.
    batch_size: B; max_history: L; seed in [0, 2^64).
    min_history: the least number of items before a target.
    threads: background threads, 0 = one for every two cores, at most 4. Where the consumer is ahead
        of them it makes the next batch itself.
    ring: number of batch buffers, at least 3; ring - 2 batches are made ahead.
    pin_memory: page-locked buffers, for copies to a GPU that overlap; ignored without CUDA.

    A batch that comes from iterating views a buffer of the ring: its tensors change once 2 further
    batches have been taken (an asynchronous copy from them has to be finished by then). Clone what
    has to live longer, or take it from `batch(step)`.

    Raises ValueError for arguments out of range, TypeError for arguments of another type and
    DataError for data that cannot be used. One consumer at a time; an instance does not survive a
    fork of the process.
    """

    def __init__(
        self,
        items: npt.NDArray[np.int32],
        users: npt.NDArray[np.int32],
        spans: npt.NDArray[np.int64],
        *,
        batch_size: int,
        max_history: int,
        seed: int,
        sampling: Sampling = "uniform",
        min_history: int = MIN_HISTORY,
        threads: int = 0,
        start_step: int = 0,
        ring: int = 4,
        pin_memory: bool = False,
    ) -> None:
        _check_range("threads", threads, 0, 1025)
        _check_range("ring", ring, HELD + 1, 2**16)
        check_word("start_step", start_step)
        self._sampler = make_sampler(
            items,
            users,
            spans,
            batch_size=batch_size,
            max_history=max_history,
            seed=seed,
            sampling=sampling,
            min_history=min_history,
        )
        self._shape = batch_size, max_history
        self._skipped = len(users) - self.num_users
        buffers = self._allocate(ring, pin_memory and torch.cuda.is_available())
        self._slots = list(zip(*buffers, strict=True))
        threads = threads or min(4, max(1, torch.get_num_threads() // 2))
        arrays = (buffer.numpy() for buffer in buffers)
        self._ring = C.BatchRing(self._sampler, *arrays, start_step, threads)

    def _allocate(self, count: int, pin_memory: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        size, width = self._shape

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.int32, pin_memory=pin_memory)

        return empty(count, size, width), empty(count, size), empty(count, size), empty(count, size)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        step: int = self._ring.next()
        return Batch(step, *self._slots[step % len(self._slots)])

    def batch(self, step: int) -> Batch:
        """Batch `step`, the same bits as from iterating, in memory of its own; works when closed.

        Raises ValueError unless step is in [0, 2^32).
        """
        check_word("step", step)
        history, length, target, user = (buffer[0] for buffer in self._allocate(1, False))
        self._sampler.fill(step, history.numpy(), length.numpy(), target.numpy(), user.numpy())
        return Batch(step, history, length, target, user)

    @property
    def num_users(self) -> int:
        """Eligible users: those with more than min_history items."""
        users: int = self._sampler.num_users
        return users

    @property
    def skipped_users(self) -> int:
        """Users that are not eligible."""
        return self._skipped

    @property
    def with_replacement(self) -> bool:
        """Whether a batch may hold a user twice: "uniform" with fewer eligible users than B."""
        replacement: bool = self._sampler.with_replacement
        return replacement

    def close(self) -> None:
        """Stop the threads; iterating further raises RuntimeError. May be called more than once."""
        self._ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def make_sampler(
    items: npt.NDArray[np.int32],
    users: npt.NDArray[np.int32],
    spans: npt.NDArray[np.int64],
    *,
    batch_size: int,
    max_history: int,
    seed: int,
    sampling: Sampling,
    min_history: int,
) -> Any:
    """The extension's `BatchSampler`; arguments and errors as of `BatchLoader`."""
    if sampling not in get_args(Sampling):
        raise ValueError(f"sampling: got {sampling!r}, expected 'uniform' or 'epoch'")
    _check_range("batch_size", batch_size, 1, 2**31)
    _check_range("max_history", max_history, 1, 2**31)
    _check_range("min_history", min_history, 0, 2**31)
    seed_key(seed)
    for name, array, dtype in (
        ("items", items, np.int32),
        ("users", users, np.int32),
        ("spans", spans, np.int64),
    ):
        _check_array(name, array, dtype)
    try:
        return C.BatchSampler(
            items, users, spans, batch_size, max_history, min_history, seed, sampling == "epoch"
        )
    except ValueError as error:
        raise DataError(f"batch loader: {error}") from None


def _check_range(name: str, value: int, low: int, end: int) -> None:
    check_whole(name, value)
    if not low <= value < end:
        raise ValueError(f"{name}: got {value}, expected a number in [{low}, {end})")


def _check_array(name: str, array: npt.NDArray[np.generic], dtype: type[np.generic]) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: got {type(array).__name__}, expected a NumPy array")
    if array.dtype != dtype or not array.flags.c_contiguous:
        layout = "contiguous" if array.flags.c_contiguous else "not contiguous"
        raise DataError(
            f"batch loader: {name}: got {array.dtype}, {layout}, "
            f"expected a contiguous {np.dtype(dtype)} array"
        )
