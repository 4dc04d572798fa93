"""FBGEMM's table-batched embedding, a peer of the table update where `fbgemm_gpu` can be imported.

Its Adam, which runs on GPUs only, is lazy: a row that no id names keeps weight and moments, and the
bias correction counts all steps. On a CPU it offers no Adam; element-wise Adagrad, the nearest that
it has there, stands in: one state a row less to move than Adam. Neither is what DeferredAdam
computes, dense Adam. Each release is built for one release of torch (1.8 for 2.13, 1.6 for 2.11);
install it with --no-deps.
"""

from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor

LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8


@cache
def unavailable() -> str | None:
    """None where the library can be imported, else why not."""
    try:
        import fbgemm_gpu  # noqa: F401
    except (ImportError, OSError) as reason:  # OSError: built for another torch
        return f"{type(reason).__name__}: {str(reason)[:200]}"
    return None


def name(device: str) -> str:
    """What it computes on this device."""
    return "FBGEMM, lazy Adam" if device == "cuda" else "FBGEMM, Adagrad (no Adam on a CPU)"


def embedding(weight: Tensor, most: int) -> Callable[[Tensor], Tensor]:
    """ids (R,) int64, R at most `most` -> rows (R, d) of a copy of `weight` (I, d), which backward
    updates."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
        BoundsCheckMode,
        EmbeddingLocation,
        PoolingMode,
    )
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    place, optimizer = (EmbeddingLocation.HOST, ComputeDevice.CPU), EmbOptimType.EXACT_ADAGRAD
    if weight.is_cuda:
        place, optimizer = (EmbeddingLocation.DEVICE, ComputeDevice.CUDA), EmbOptimType.ADAM
    module = SplitTableBatchedEmbeddingBagsCodegen(
        [(*weight.shape, *place)],
        optimizer=optimizer,
        learning_rate=LR,
        beta1=BETA1,
        beta2=BETA2,
        eps=EPS,
        pooling_mode=PoolingMode.NONE,
        bounds_check_mode=BoundsCheckMode.NONE,
    )
    module.split_embedding_weights()[0].data.copy_(weight)
    offsets = torch.arange(most + 1, device=weight.device)  # each id is a bag of its own
    return lambda ids: module(ids, offsets[: len(ids) + 1])


def check(weight: Tensor, steps: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Largest difference from the definition in float64 after `steps` of ids (R,) and gradients
    (R, d), R at most I, as a share of the largest movement."""
    ids_of_all = torch.arange(len(weight), device=weight.device)
    lookup = embedding(weight, most=len(weight))
    before = weight.double()
    exact = before.clone()
    first, second = torch.zeros_like(exact), torch.zeros_like(exact)
    for count, (ids, gradients) in enumerate(steps, start=1):
        lookup(ids).backward(gradients)
        touched = ids.unique()
        gradient = torch.zeros_like(exact).index_add_(0, ids, gradients.double())[touched]
        if weight.is_cuda:
            first[touched] = BETA1 * first[touched] + (1 - BETA1) * gradient
            second[touched] = BETA2 * second[touched] + (1 - BETA2) * gradient**2
            mean = first[touched] / (1 - BETA1**count)
            scale = (second[touched] / (1 - BETA2**count)).sqrt()
        else:
            second[touched] += gradient**2
            mean, scale = gradient, second[touched].sqrt()
        exact[touched] -= LR * mean / (scale + EPS)
    got = lookup(ids_of_all).detach()
    return ((got - exact).abs().max() / (exact - before).abs().max()).item()
