"""Whether tensors hold finite numbers only, and where they do not."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .native import C


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether nothing in these floating-point tensors is infinite or NaN.

    Any shapes, dtypes and devices; a GPU is waited for.
    """
    if all(_is_native(tensor) for tensor in tensors):
        finite: bool = C.all_finite([tensor.detach().numpy() for tensor in tensors])
        return finite
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def first_non_finite(tensor: Tensor) -> tuple[tuple[int, ...], float] | None:
    """Index and value of the first element that is infinite or NaN, or None."""
    bad = torch.isfinite(tensor.detach()).logical_not_().nonzero()
    if not len(bad):
        return None
    index = tuple(int(i) for i in bad[0])
    return index, float(tensor.detach()[index])


def _is_native(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()
