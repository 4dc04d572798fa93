"""Whether tensors hold finite numbers only, and where they do not."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .native import C


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether nothing in these floating-point tensors is infinite or NaN.

    Any shapes, dtypes and devices; a GPU is waited for.
    """
    arrays, others = [], []
    for tensor in tensors:
        if tensor.is_cpu and tensor.dtype == torch.float32 and tensor.is_contiguous():
            arrays.append(tensor.detach().numpy())
        else:
            others.append(tensor)
    return C.all_finite(arrays) and all(bool(torch.isfinite(x).all()) for x in others)


def joined(parts: Sequence[Tensor]) -> tuple[Tensor, bool]:
    """The tensors (n_i, d), one at least, one after the other, and whether all is finite.

    One alone is returned as it is. A GPU is not waited for: of its tensors the answer is yes.
    """
    if len(parts) == 1:
        return parts[0], not parts[0].is_cpu or all_finite(parts)
    if not all(x.is_cpu and x.dtype == torch.float32 and x.is_contiguous() for x in parts):
        whole = torch.cat(list(parts))
        return whole, not whole.is_cpu or all_finite([whole])
    whole = torch.empty(sum(map(len, parts)), *parts[0].shape[1:])
    return whole, C.join([x.detach().numpy() for x in parts], whole.numpy())


def first_non_finite(tensor: Tensor) -> tuple[tuple[int, ...], float] | None:
    """Index and value of the first element that is infinite or NaN, or None."""
    bad = torch.isfinite(tensor.detach()).logical_not_().nonzero()
    if not len(bad):
        return None
    index = tuple(int(i) for i in bad[0])
    return index, float(tensor.detach()[index])
