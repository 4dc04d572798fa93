"""Shared negatives of a step: `num` item ids, drawn with replacement or without, the same for the
whole batch.

Philox makes them a function of (seed, step, index), so every backend draws the same ids.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .dispatch import choose
from .native import C
from .permutation import network, permute
from .philox import (
    NEGATIVE_KEYS,
    NEGATIVES,
    bounded,
    check_step,
    check_word,
    random_words,
    seed_key,
)
from .proposal import Proposal, log_uniform

SAMPLERS = ("uniform", "log-uniform")
_BLOCK = 256  # ids a Triton program draws


def sample_negatives(
    num: int,
    num_items: int,
    *,
    seed: int,
    step: int | Tensor,
    sampler: str | Proposal = "uniform",
    replacement: bool = True,
    device: torch.device | str = "cpu",
    backend: str = "auto",
) -> Tensor:
    """Item ids drawn from the catalogue without its padding row, 1..num_items-1.

    With the words w of Philox(index j, step, NEGATIVES, seed), c = bounded(w, num_items - 1): id j
    is 1 + c where sampler is "uniform"; with a Proposal only if w_2 < threshold[c], else
    1 + alias[c]. Without replacement id j is 1 + the image of j under the permutation (seed, step,
    NEGATIVE_KEYS) of num_items - 1 elements: "uniform" only, num < num_items.

    num: how many, in [0, 2^32); num_items: rows of the item table, padding included, in [2, 2^32);
    seed in [0, 2^64); step in [0, 2^32), or a tensor of one int64, which "triton" reads on the GPU;
    backend "triton" (draws on `device`), "native" or "reference" (draw on the CPU).
    Returns (num,) int64 on `device`. Raises ValueError for anything else.
    """
    table = _table(sampler, num_items)
    device = torch.device(device)
    backends: dict[str, Callable[..., Tensor]]
    backends = {"triton": _triton, "native": _native, "reference": _reference}
    draw = choose("sample_negatives", backend, backends, device)
    check_draw(num, num_items, seed, step, device if draw is _triton else None)
    if not replacement:
        _check_distinct(num, num_items, sampler)
    if draw is _triton:
        return _triton(num, num_items, seed, step, table, replacement, device)
    number = int(step)
    check_word("step", number)
    ids: Tensor = draw(num, num_items, seed, number, table, replacement)
    return ids.to(device)


def check_draw(
    num: int, num_items: int, seed: int, step: int | Tensor, device: torch.device | None = None
) -> None:
    """Raise ValueError for what `sample_negatives` cannot draw.

    A step in a tensor is not read; it has to be on `device`, if that is given.
    """
    check_word("num", num)
    if not 2 <= num_items < 2**32:
        raise ValueError(
            f"num_items: got {num_items}, expected a number in [2, 2^32); it counts the padding row"
        )
    seed_key(seed)
    check_step(step, device)


def _check_distinct(num: int, num_items: int, sampler: str | Proposal) -> None:
    if sampler != "uniform":
        raise ValueError(f"sampler: got {sampler!r:.50} without replacement, expected 'uniform'")
    if num >= num_items:
        raise ValueError(
            f"num: got {num} without replacement, expected at most {num_items - 1}, all items"
        )


def importance(log_q: Tensor | None) -> Tensor | None:
    """1 / q up to a common factor, which the difference of the two log-sum-exps cancels."""
    if log_q is None or len(log_q) == 0:
        return None
    return torch.exp(log_q.detach().min() - log_q.detach())


def _table(sampler: str | Proposal, num_items: int) -> Proposal | None:
    """What is not drawn uniformly, is by a table."""
    if isinstance(sampler, Proposal):
        if sampler.num_items != num_items:
            raise ValueError(
                f"sampler: got a Proposal of {sampler.num_items} items, expected {num_items}"
            )
        return sampler
    if sampler not in SAMPLERS:
        raise ValueError(
            f"sampler: got {sampler!r}, expected one of {', '.join(SAMPLERS)}, or a Proposal"
        )
    return None if sampler == "uniform" else log_uniform(num_items)


def _triton(
    num: int,
    num_items: int,
    seed: int,
    step: int | Tensor,
    table: Proposal | None,
    replacement: bool,
    device: torch.device,
) -> Tensor:
    from .permutation_triton import sample_distinct_kernel
    from .philox_triton import sample_by_alias_kernel, sample_negatives_kernel
    from .runtime import launch

    ids = torch.empty(num, dtype=torch.int64, device=device)
    number, word = (0, step) if isinstance(step, Tensor) else (step, None)
    grid = (-(-num // _BLOCK),)
    rest = (word, num, num_items, seed, number)
    if not replacement:
        launch(sample_distinct_kernel, grid, ids, *rest, **network(num_items - 1), BLOCK=_BLOCK)
    elif table is None:
        launch(sample_negatives_kernel, grid, ids, *rest, BLOCK=_BLOCK)
    else:
        columns = table.to(device)
        tables = (columns.threshold, columns.alias)
        launch(sample_by_alias_kernel, grid, ids, *tables, *rest, BLOCK=_BLOCK)
    return ids


def _native(
    num: int, num_items: int, seed: int, step: int, table: Proposal | None, replacement: bool
) -> Tensor:
    if not replacement:
        image = C.permute(np.arange(num), num_items - 1, seed, step, NEGATIVE_KEYS)
        return 1 + torch.from_numpy(image)
    ids = torch.empty(num, dtype=torch.int64)
    if table is None:
        C.sample_negatives(ids.numpy(), num_items, seed, step)
    else:
        C.sample_by_alias(ids.numpy(), table.threshold.numpy(), table.alias.numpy(), seed, step)
    return ids


def _reference(
    num: int, num_items: int, seed: int, step: int, table: Proposal | None, replacement: bool
) -> Tensor:
    if not replacement:
        image = permute(np.arange(num), num_items - 1, seed=seed, step=step, stream=NEGATIVE_KEYS)
        return 1 + torch.from_numpy(image)
    words = random_words(np.arange(num), step, NEGATIVES, seed)
    column = torch.from_numpy(bounded(words, num_items - 1))
    if table is None:
        return 1 + column
    kept = torch.from_numpy(words[:, 2].astype(np.int64)) < table.threshold[column]
    return 1 + torch.where(kept, column, table.alias[column].long())
