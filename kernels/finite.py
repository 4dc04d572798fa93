"""Whether tensors hold finite numbers only, and where they do not."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .native import C


class Finite:
    """Whether nothing in floating-point tensors is infinite or NaN, asked again and again.

    Any shapes, dtypes and devices; a GPU is waited for. What is prepared for tensors that stay in
    place takes longer than looking at small ones.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        native = [tensor for tensor in tensors if _is_native(tensor)]
        self._arrays = [tensor.detach().numpy() for tensor in native]
        self._others = [tensor for tensor in tensors if not _is_native(tensor)]

    def __bool__(self) -> bool:
        return C.all_finite(self._arrays) and all(
            bool(torch.isfinite(tensor).all()) for tensor in self._others
        )


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether nothing in these floating-point tensors is infinite or NaN; see `Finite`."""
    return bool(Finite(tensors))


def first_non_finite(tensor: Tensor) -> tuple[tuple[int, ...], float] | None:
    """Index and value of the first element that is infinite or NaN, or None."""
    bad = torch.isfinite(tensor.detach()).logical_not_().nonzero()
    if not len(bad):
        return None
    index = tuple(int(i) for i in bad[0])
    return index, float(tensor.detach()[index])


def _is_native(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()
