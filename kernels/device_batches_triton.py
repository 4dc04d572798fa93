"""One Triton kernel draws a training batch: users, targets, histories and lengths."""

import triton
import triton.language as tl

from . import philox
from .permutation_triton import permute
from .philox_triton import draw_below

_USERS = tl.constexpr(philox.USERS)
_TARGETS = tl.constexpr(philox.TARGETS)
_KEYS = tl.constexpr(philox.PERMUTATION_KEYS)


@triton.jit
def _uniform(
    index, seed, step, before_ptr, num_users,
    REPLACE: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Of each sample the row of its user, and which of that user's targets."""
    n = num_users.to(tl.uint64)
    if REPLACE:
        row = draw_below(index, seed, step, n, _USERS)
    else:
        row = permute(index, n, seed, step, _KEYS, LOW, HIGH, ROUNDS)
    targets = tl.load(before_ptr + row + 1) - tl.load(before_ptr + row)
    return row, draw_below(index, seed, step, targets.to(tl.uint64), _TARGETS)


@triton.jit
def _in_epoch(
    number, seed, before_ptr, num_users, num_targets,
    LOW: tl.constexpr, HIGH: tl.constexpr, ROUNDS: tl.constexpr, USER_BITS: tl.constexpr,
):  # fmt: skip
    """The same of samples that are numbered through all epochs."""
    n = num_targets.to(tl.uint64)
    target = permute(number % n, n, seed, number // n, _KEYS, LOW, HIGH, ROUNDS)
    row = tl.zeros_like(target)  # the last one with no more targets before it than that
    for bit in range(USER_BITS):
        later = row + (1 << (USER_BITS - 1 - bit))
        there = later < num_users
        before = tl.load(before_ptr + tl.where(there, later, 0))
        row = tl.where(there & (before <= target), later, row)
    return row, target - tl.load(before_ptr + row)


@triton.jit(do_not_specialize=["num_users", "num_targets", "min_history", "batch", "seed", "step"])
def draw_batch_kernel(
    history_ptr, length_ptr, target_ptr, user_ptr, items_ptr, start_ptr, users_ptr, before_ptr,
    step_ptr, num_users, num_targets, min_history, batch, seed, step,
    EPOCH: tl.constexpr, REPLACE: tl.constexpr,
    LOW: tl.constexpr, HIGH: tl.constexpr, ROUNDS: tl.constexpr, USER_BITS: tl.constexpr,
    L: tl.constexpr, BLOCK: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """The batch of one step, which step_ptr holds if given; grid (cdiv(batch, BLOCK),)."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < batch
    index = tl.where(inside, index, 0)  # there are no others
    if step_ptr is not None:
        step = tl.load(step_ptr)
    if EPOCH:
        number = step.to(tl.uint32).to(tl.uint64) * batch.to(tl.uint64) + index.to(tl.uint64)
        row, rank = _in_epoch(
            number, seed, before_ptr, num_users, num_targets, LOW, HIGH, ROUNDS, USER_BITS
        )
    else:
        row, rank = _uniform(index, seed, step, before_ptr, num_users, REPLACE, LOW, HIGH, ROUNDS)
    past = rank + min_history
    place = tl.load(start_ptr + row) + past
    length = tl.minimum(past, L)
    tl.store(length_ptr + index, length.to(tl.int32), mask=inside)
    tl.store(target_ptr + index, tl.load(items_ptr + place), mask=inside)
    tl.store(user_ptr + index, tl.load(users_ptr + row), mask=inside)
    for tile in range(tl.cdiv(L, BLOCK_L)):
        column = tl.cast(tile, tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)[None, :]
        real = column < length[:, None]
        item = tl.load(items_ptr + (place - length)[:, None] + column, mask=real, other=0)
        to = history_ptr + index[:, None] * L + column
        tl.store(to, item, mask=inside[:, None] & (column < L))
