"""Runs the Triton kernel of `device_batches_triton.py`. Nothing here waits or takes memory."""

import triton
from torch import Tensor

from .device_batches import Buffers, Sequences
from .device_batches_triton import draw_batch_kernel
from .permutation import network
from .runtime import launch

_BLOCK = 32  # samples of a program: those of one warp, and a small batch is spread over the GPU
_COLUMNS = 32  # of their histories at a time


def draw_batch(
    sequences: Sequences, out: Buffers, seed: int, step: int | Tensor, every_target_once: bool
) -> None:
    """See `device_batches.draw_batch`."""
    batch, max_history = out.history.shape
    num_users = len(sequences.user)
    number, word = (0, step) if isinstance(step, Tensor) else (step, None)
    launch(
        draw_batch_kernel,
        (triton.cdiv(batch, _BLOCK),),
        *out,
        sequences.items,
        sequences.start,
        sequences.user,
        sequences.targets_before,
        word,
        num_users,
        sequences.num_targets,
        sequences.min_history,
        batch,
        seed,
        number,
        EPOCH=every_target_once,
        REPLACE=num_users < batch,
        **network(sequences.num_targets if every_target_once else num_users),
        USER_BITS=(num_users - 1).bit_length(),
        L=max_history,
        BLOCK=_BLOCK,
        BLOCK_L=min(_COLUMNS, triton.next_power_of_2(max_history)),
    )
