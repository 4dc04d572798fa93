"""Training batches drawn where the sequences are: on the GPU, a function of (seed, step).

The formulas are in `remi_fast/data/loader.py`, whose C++ loader makes the same batches bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .checks import check_tensor
from .dispatch import choose
from .permutation import permute
from .philox import TARGETS, USERS, bounded, check_step, check_word, random_words, seed_key

Integers = npt.NDArray[np.int64]


class Buffers(NamedTuple):
    """Where a batch goes: contiguous int32, histories (B, L), the others (B,); B, L >= 1."""

    history: Tensor
    length: Tensor
    target: Tensor
    user: Tensor

    @classmethod
    def empty(cls, batch_size: int, max_history: int, device: torch.device | str) -> Self:
        """Memory for a batch."""
        shapes = (batch_size, max_history), *(3 * [(batch_size,)])
        return cls(*(torch.empty(shape, dtype=torch.int32, device=device) for shape in shapes))


@dataclass(frozen=True)
class Sequences:
    """The item sequences of the n users with a target, all on one device."""

    items: Tensor  # int32 (nnz,)
    start: Tensor  # int64 (n,) of a user's first item in `items`
    user: Tensor  # int32 (n,) user index
    targets_before: Tensor  # int64 (n + 1,) target positions of the users before each; their number
    num_targets: int
    min_history: int  # items before a user's first target

    @classmethod
    def upload(
        cls,
        items: npt.NDArray[np.int32],
        users: npt.NDArray[np.int32],
        spans: Integers,
        *,
        min_history: int,
        device: torch.device | str,
    ) -> Self:
        """Copies to a device of what `C.BatchSampler` has checked; arguments as of `BatchLoader`.

        It takes `device_bytes` there.
        """
        start, targets = spans[:, 0], spans[:, 1] - spans[:, 0] - min_history
        trained = targets > 0
        before = np.concatenate([[0], np.cumsum(targets[trained])])
        return cls(
            items=torch.tensor(items, device=device),
            start=torch.tensor(start[trained], device=device),
            user=torch.tensor(users[trained], device=device),
            targets_before=torch.tensor(before, device=device),
            num_targets=int(before[-1]),
            min_history=min_history,
        )


def device_bytes(items: npt.NDArray[np.int32], spans: Integers, *, min_history: int) -> int:
    """Bytes that the `Sequences` of these take: 4 an item, and 20 a user with a target, and 8."""
    trained = int(np.count_nonzero(spans[:, 1] - spans[:, 0] > min_history))
    return items.nbytes + 20 * trained + 8


def draw_batch(
    sequences: Sequences,
    out: Buffers,
    *,
    seed: int,
    step: int | Tensor,
    every_target_once: bool = False,
    backend: str = "auto",
) -> None:
    """Write batch `step` into `out`, on the device of the sequences.

    seed in [0, 2^64); step in [0, 2^32), or a tensor of one int64, which "triton" reads on the
    device: there it counts modulo 2^32, and so does its epoch. Nothing else is read or waited for,
    and no memory is taken, so that a CUDA graph can replay a call.
    every_target_once: sampling="epoch", else "uniform".
    backend: "triton" or "reference" (NumPy, on the CPU; for a GPU that is slow).
    Raises ValueError for anything else, TypeError for buffers that are not int32 tensors.
    """
    device = sequences.items.device
    draw: Callable[..., None]
    draw = choose("draw_batch", backend, {"reference": _reference, "triton": _triton}, device)
    _check_buffers(out, device)
    seed_key(seed)
    check_step(step, device)
    if every_target_once and not isinstance(step, Tensor):
        _check_epoch(step, len(out.history), sequences.num_targets)
    draw(sequences, out, seed, step, every_target_once)


def _check_buffers(out: Buffers, device: torch.device) -> None:
    for name, buffer in out._asdict().items():
        check_tensor(name, buffer)
        if buffer.dtype != torch.int32:
            raise TypeError(f"{name}: got {buffer.dtype}, expected torch.int32")
        if buffer.device != device or not buffer.is_contiguous():
            layout = "contiguous" if buffer.is_contiguous() else "not contiguous"
            raise ValueError(
                f"{name}: got {layout} memory on {buffer.device}, expected it contiguous on "
                f"{device}, where the sequences are"
            )
    shape = out.history.shape
    if len(shape) != 2 or 0 in shape or any(buffer.shape != shape[:1] for buffer in out[1:]):
        raise ValueError(
            f"buffers: got shapes {[tuple(buffer.shape) for buffer in out]}, "
            "expected (B, L), (B,), (B,), (B,) with B, L >= 1"
        )


def _check_epoch(step: int, batch: int, num_targets: int) -> None:
    last = (step * batch + batch - 1) // num_targets
    if last >= 2**32:
        epoch = max(2**32, step * batch // num_targets)
        raise ValueError(f"step {step} lies in epoch {epoch}, beyond the last one, 2^32 - 1")


def _triton(
    sequences: Sequences, out: Buffers, seed: int, step: int | Tensor, every_target_once: bool
) -> None:
    from . import device_batches_launch  # triton is not imported where it is not used

    device_batches_launch.draw_batch(sequences, out, seed, step, every_target_once)


def _reference(
    sequences: Sequences, out: Buffers, seed: int, step: int | Tensor, every_target_once: bool
) -> None:
    number = int(step)
    check_word("step", number)
    items, start, user, before = (
        tensor.cpu().numpy()
        for tensor in (sequences.items, sequences.start, sequences.user, sequences.targets_before)
    )
    batch, max_history = out.history.shape
    choose_samples = _in_epoch if every_target_once else _uniform
    row, rank = choose_samples(before, seed, number, np.arange(batch))
    past = rank + sequences.min_history
    place, length = start[row] + past, np.minimum(past, max_history)
    column = np.arange(max_history)
    real = column < length[:, None]
    history = np.where(real, items[np.where(real, (place - length)[:, None] + column, 0)], 0)
    for buffer, values in zip(out, (history, length, items[place], user[row]), strict=True):
        buffer.copy_(torch.from_numpy(values))


def _uniform(before: Integers, seed: int, step: int, index: Integers) -> tuple[Integers, Integers]:
    """Of each sample the row of its user, and which of that user's targets."""
    num_users = len(before) - 1
    if len(index) > num_users:
        row = bounded(random_words(index, step, USERS, seed), num_users)
    else:
        row = permute(index, num_users, seed=seed, step=step)
    return row, bounded(random_words(index, step, TARGETS, seed), np.diff(before)[row])


def _in_epoch(before: Integers, seed: int, step: int, index: Integers) -> tuple[Integers, Integers]:
    num_targets = int(before[-1])
    epoch, rank = np.divmod(step * len(index) + index, num_targets)
    target = np.empty_like(rank)
    for e in np.unique(epoch):
        here = epoch == e
        target[here] = permute(rank[here], num_targets, seed=seed, step=e)
    row = np.searchsorted(before, target, side="right") - 1
    return row, target - before[row]
