"""The arithmetic of a training step's matrix products: `train.precision`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """A region where matrix products are made like this; tables, sums and updates stay float32.

    fp32    as exact as float32, unless torch.set_float32_matmul_precision says otherwise
    tf32    of float32 numbers that are rounded to 10 bits
    bf16    of bfloat16 numbers, by autocast
    """
    if precision == "bf16":
        # A cast that autocast remembers would be one of the weights before the last update.
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    return _tf32() if precision == "tf32" else nullcontext()


@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
