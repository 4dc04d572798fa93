"""Whether tensors hold finite numbers only, and where they do not."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .native import C


class Finite:
    """Whether nothing in floating-point tensors is infinite or NaN, asked again and again.

    Any shapes, dtypes and devices; a GPU is waited for. What is prepared for tensors that stay in
    place takes longer than looking at small ones.
    """

    def __init__(self, lasting: Sequence[Tensor]) -> None:
        self._arrays, self._others = _split(lasting)

    def __call__(self, new: Sequence[Tensor] = ()) -> bool:
        """Of the lasting tensors and of these."""
        arrays, others = _split(new)
        return C.all_finite(self._arrays + arrays) and all(
            bool(torch.isfinite(tensor).all()) for tensor in self._others + others
        )


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether nothing in these floating-point tensors is infinite or NaN; see `Finite`."""
    return Finite([])(tensors)


def first_non_finite(tensor: Tensor) -> tuple[tuple[int, ...], float] | None:
    """Index and value of the first element that is infinite or NaN, or None."""
    bad = torch.isfinite(tensor.detach()).logical_not_().nonzero()
    if not len(bad):
        return None
    index = tuple(int(i) for i in bad[0])
    return index, float(tensor.detach()[index])


def _split(tensors: Sequence[Tensor]) -> tuple[list[np.ndarray], list[Tensor]]:
    """Those that C++ can look at, and the others."""
    arrays, others = [], []
    for tensor in tensors:
        if tensor.is_cpu and tensor.dtype == torch.float32 and tensor.is_contiguous():
            arrays.append(tensor.detach().numpy())
        else:
            others.append(tensor)
    return arrays, others
