"""Memory of large tables whose rows are read in random order."""

import contextlib
import math
import mmap

import torch
from torch import Tensor

_ROWS_MOVED = 1 << 16  # at a time
_NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE: Python 3.11 has no name for it


def table_zeros(*shape: int, dtype: torch.dtype, device: torch.device, room: int = 1) -> Tensor:
    """Zeros of this shape; on the CPU in huge pages where the system has them.

    Every row of a table larger than the cache of addresses (TLB) is a miss there with pages of
    4 KiB: at 10^7 items gathering takes 1.4 times as long.

    room: its storage has room for so many of it, on the CPU, for `spread`; what is not used is not
    taken.
    """
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size == 0:
        return torch.zeros(shape, dtype=dtype, device=device)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_NO_RESERVE if room > 1 else 0)
    memory = mmap.mmap(-1, size * room, flags=flags)
    with contextlib.suppress(OSError):  # a kernel without them: it is advice only
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype)[: math.prod(shape)].view(shape)


def has_room(rows: Tensor, parts: int) -> bool:
    """Whether `rows` were made with room for so many of them."""
    return rows.is_contiguous() and rows.untyped_storage().nbytes() >= parts * rows.nbytes > 0


def spread(rows: Tensor, parts: int) -> Tensor:
    """(n, parts, d): each of the `rows` (n, d), which have room for it, and behind it zeros.

    In their own storage: `rows` must not be used any more.
    """
    count, dim = rows.shape
    made = rows.as_strided((count, parts, dim), (parts * dim, dim, 1))
    for end in range(count, 0, -_ROWS_MOVED):  # from the end: nothing is overwritten too early
        start = max(0, end - _ROWS_MOVED)
        made[start:end, 0] = rows[start:end].clone()
        made[start:end, 1:] = 0
    return made
