"""Approximate search with faiss: several queries a user, merged and rescored.

faiss knows one query a list. As published (ComiRec), each interest retrieves its own candidates; a
user's are their union, without duplicates, by the exact score of the best interest.
"""

import logging
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remi_fast.errors import ConfigError
from remi_fast.extras import load
from remi_fast.kernels.interest_search import TopK
from remi_fast.retrieval.search import ItemVectors, search

TARGET_RECALL = 0.99  # of exact search, that the index is tuned to
TUNING_USERS = 256
CANDIDATES = "candidates"  # an effort beside those of faiss: so many times k are rescored
VALUES_AT_ONCE = 16 << 20  # of candidates' vectors, when they are rescored: 64 MiB

logger = logging.getLogger(__name__)


def load_faiss() -> Any:
    """The package faiss. Raises ConfigError, saying what to install, where it cannot be used."""
    installed = [name for name in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12") if _is_there(name)]
    if len(installed) > 1:
        raise ConfigError(
            f"faiss: got {' and '.join(installed)} installed, which overwrite each other's files; "
            "expected one: `pip uninstall` them all, then `pip install 'remi-fast[faiss]'`, or "
            "'remi-fast[faiss-gpu]' on a GPU machine"
        )
    if installed == ["faiss-gpu-cu12"]:
        logger.warning("faiss-gpu-cu12 has no code for Hopper GPUs; remi-fast[faiss-gpu] has")
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells of every attempt
    return load("faiss", "faiss", "approximate search")


def _is_there(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def default_factory(num_items: int) -> str:
    """An inverted file with about 4 sqrt(I) lists, a power of 2."""
    lists = 2 ** round(np.log2(4 * max(1, num_items - 1) ** 0.5))
    return f"IVF{min(lists, max(1, (num_items - 1) // 39))},Flat"  # faiss wants 39 a list


def build(items: ItemVectors, factory: str, option: str = "engine") -> Any:
    """A faiss index of inner products, whose ids are the rows 1..I-1 of `items`.

    Raises ConfigError, naming `option`, for a factory string that faiss does not know or that needs
    more items, or where faiss is missing.
    """
    faiss = load_faiss()
    vectors = items.rows(1, items.num_items).contiguous().numpy()
    try:
        metric = faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(vectors.shape[1], f"IDMap,{factory}", metric)
        index.train(vectors)
        index.add_with_ids(vectors, np.arange(1, items.num_items))
    except RuntimeError as error:
        reason = str(error).rsplit(":", 1)[-1].strip()
        raise ConfigError(
            f"{option}: got {factory!r}, expected a factory string of faiss for {len(vectors)} "
            f"items of {vectors.shape[1]} dimensions, such as HNSW32 or IVF1024,Flat "
            f"({reason:.200})"
        ) from None
    return index


class FaissSearch:
    """A faiss index over the items of a model, tuned on the first users it is asked for."""

    def __init__(self, items: ItemVectors, factory: str) -> None:
        """factory: as `faiss.index_factory` takes it. Raises as `build`."""
        self._faiss = load_faiss()
        self._faiss.omp_set_num_threads(torch.get_num_threads())
        self._items, self.factory = items, factory
        self.index = build(items, factory)
        self.effort: dict[str, int] = {}  # what the index's parameters were raised to
        self.recall: float | None = None  # of exact search, on the users it was tuned on

    def search(self, interests: Tensor, k: int, seen: Tensor | None = None) -> TopK:
        """As `retrieval.search.search`, over the candidates that the index finds.

        The first call measures the recall against exact search on up to 256 of its users, and
        raises the effort of the index until it is 0.99, or all that the index can do.
        """
        if self.recall is None:
            self._tune(interests[:TUNING_USERS], k)
        hidden = 0 if seen is None else seen.shape[1]
        return self._merge(interests, self._candidates(interests, k + hidden), k, seen)

    def _candidates(self, interests: Tensor, k: int) -> Tensor:
        """(n, K k) ids that the interests find, 0 where they find none."""
        users, num_interests, dim = interests.shape
        queries = interests.reshape(-1, dim).contiguous().numpy()
        k = min(k * self.effort.get(CANDIDATES, 1), self._items.num_items - 1)
        ids = self.index.search(queries, k)[1]
        return torch.from_numpy(ids).clamp_(min=0).view(users, num_interests * k)

    def _merge(self, interests: Tensor, candidates: Tensor, k: int, seen: Tensor | None) -> TopK:
        step = max(1, VALUES_AT_ONCE // (candidates.shape[1] * interests.shape[2]))
        blocks = [
            _rescore(
                interests[start : start + step],
                candidates[start : start + step],
                self._items,
                k,
                None if seen is None else seen[start : start + step],
            )
            for start in range(0, len(interests), step)
        ]
        return TopK(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))

    def _tune(self, interests: Tensor, k: int) -> None:
        exact = search(interests, self._items, k).ids
        recall = self._recall(interests, k, exact)
        for name, value in self._efforts():
            if recall >= TARGET_RECALL:
                break
            if name != CANDIDATES:
                self._faiss.ParameterSpace().set_index_parameter(self.index, name, value)
            self.effort[name] = value
            recall = self._recall(interests, k, exact)
        self.recall = recall
        self._report(k, len(interests))

    def _recall(self, interests: Tensor, k: int, exact: Tensor) -> float:
        return recall_of(self._merge(interests, self._candidates(interests, k), k, None).ids, exact)

    def _report(self, k: int, users: int) -> None:
        assert self.recall is not None
        effort = "".join(f", {name} {value}" for name, value in self.effort.items())
        logger.log(
            logging.INFO if self.recall >= TARGET_RECALL else logging.WARNING,
            "faiss %s%s finds %.4f of what exact search does (top %d of %d users; asked: %s)",
            self.factory,
            effort,
            self.recall,
            k,
            users,
            TARGET_RECALL,
        )

    def _efforts(self) -> list[tuple[str, int]]:
        """What trades time for recall, from little to all: how much of the index is looked at,
        then how many candidates are rescored, for codes that are not the vectors."""
        reach = []
        if "HNSW" in self.factory:
            reach = [("efSearch", 2**i) for i in range(5, 13)]
        elif "IVF" in self.factory:
            lists = self._faiss.extract_index_ivf(self.index.index).nlist
            reach = [("nprobe", min(2**i, lists)) for i in range((lists - 1).bit_length() + 1)]
        return reach + [(CANDIDATES, 2**i) for i in range(1, 6)]


def recall_of(found: Tensor, exact: Tensor) -> float:
    """Share of the exact ids (n, k) that are among the found (n, k); 0 is no id."""
    hits = ((found[:, None, :] == exact[:, :, None]) & (exact > 0)[:, :, None]).any(2)
    return float(hits.sum() / (exact > 0).sum().clamp(min=1))


def _rescore(
    interests: Tensor, candidates: Tensor, items: ItemVectors, k: int, seen: Tensor | None
) -> TopK:
    """The k best of the candidates (n, m), by their exact scores."""
    ids = candidates.sort(dim=1).values
    repeated = torch.zeros_like(ids, dtype=torch.bool)
    repeated[:, 1:] = ids[:, 1:] == ids[:, :-1]
    distinct, inverse = torch.unique(ids, return_inverse=True)
    vectors = items.read(distinct)[inverse]
    scores, interest = torch.einsum("nhd,nmd->nmh", interests, vectors).max(2)
    hidden = repeated | (ids == 0)
    if seen is not None:
        hidden |= _is_seen(ids, seen)
    scores = scores.masked_fill(hidden, -torch.inf)
    fill = max(0, k - scores.shape[1])
    scores = torch.nn.functional.pad(scores, (0, fill), value=-torch.inf)
    ids, interest = (torch.nn.functional.pad(x, (0, fill)) for x in (ids, interest))
    scores, order = scores.sort(dim=1, descending=True, stable=True)  # equal scores by id
    scores, order = scores[:, :k], order[:, :k]
    none = scores == -torch.inf
    ids, interest = (x.gather(1, order).masked_fill(none, 0) for x in (ids, interest))
    return TopK(ids, scores, interest)


def _is_seen(ids: Tensor, seen: Tensor) -> Tensor:
    """Which of ids (n, m), in order, are among seen (n, s)."""
    ordered = seen.sort(dim=1).values
    place = torch.searchsorted(ordered, ids).clamp_(max=max(0, ordered.shape[1] - 1))
    if not ordered.shape[1]:
        return torch.zeros_like(ids, dtype=torch.bool)
    return ordered.gather(1, place) == ids
