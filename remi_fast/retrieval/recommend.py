"""Recommendations for histories of known or new users: raw ids in, raw ids out."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from remi_fast.errors import ConfigError, DataError, listed, nearest, shown
from remi_fast.kernels.interest_search import TopK
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.retrieval import categories as item_categories
from remi_fast.retrieval.diversity import candidates_for, check_coefficient, diversify
from remi_fast.retrieval.evaluate import USERS_AT_ONCE
from remi_fast.retrieval.histories import last_items, padded, user_blocks
from remi_fast.retrieval.search import ItemVectors, Subset, search

if TYPE_CHECKING:
    import polars as pl

AUTO, EXACT = "auto", "exact"
APPROXIMATE_FROM = 2_000_000  # more items than these are searched with faiss by "auto"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What is asked for each user, checked."""

    k: int
    exclude_seen: bool
    diversity: float
    items: ItemVectors  # the catalogue, or a subset of it
    engine: str  # "exact", or a factory string of faiss
    categories: Tensor | None  # (I,) int64, where diversity is asked for


@dataclass(frozen=True)
class KnownItems:
    """What histories have of the model's items."""

    frame: "pl.DataFrame"  # user_id and index of the known items, in order of time
    ignored: int  # interactions with unknown items
    users_without_items: int  # none of theirs is known


class Recommender:
    """A trained model with the raw item ids it was trained on; made by `remi_fast.load(run)`."""

    def __init__(self, model: MultiInterestModel, item_table: "pl.DataFrame") -> None:
        """item_table: columns item_id and index (1..I-1), one row an item of the model."""
        if item_table.height != model.num_items - 1:
            raise DataError(
                f"item table: got {item_table.height} items, expected {model.num_items - 1}"
            )
        self.model = model
        self.item_table = item_table.sort("index")
        self._clusters: Tensor | None = None
        self._indexes: dict[str, Any] = {}  # FaissSearch by factory string

    def recommend(
        self,
        histories: "pl.DataFrame",
        k: int = 50,
        exclude_seen: bool = False,
        diversity: float = 0.0,
        *,
        filter: "Iterable[int | str] | pl.Series | None" = None,
        categories: "str | Path | pl.DataFrame | None" = None,
        engine: str = AUTO,
    ) -> "pl.DataFrame":
        """The k best items for each user.

        Args:
            histories: columns user_id and item_id (raw ids, cast to the type of the training
                data's) and, unless the rows are in order of time already, timestamp. The users
                need not have been trained on. The most recent `max_history` items count.
            k: how many items, >= 1; fewer where the catalogue has fewer.
            exclude_seen: never recommend an item of the user's history.
            diversity: >= 0, in the unit of the scores: how much a pair of items of different
                categories in the list is worth (ComiRec's aggregation, over the K k best items).
            filter: raw ids of the items that may be recommended; all if None. Searched exactly.
            categories: a table, or a .parquet or .csv file, of item_id and category; clusters of
                the item vectors if None. Used where diversity > 0.
            engine: "exact"; a factory string of faiss, as "IVF1024,Flat" or "HNSW32" (the extra
                `faiss`), tuned to a recall of 0.99 of exact search on the first users; or "auto",
                exact for up to 2 million items and with a filter.

        Returns:
            user_id, rank (from 1), item_id, score (float32), interest (from 0: the user's vector
            that retrieved the item); users in the order they first occur, best item first.

        Items that were not in the training data are ignored, with a logged warning; users of whom
        nothing is left get no rows, also with a warning.

        Raises:
            ValueError: k < 1, diversity < 0, or no item of the filter is known. TypeError:
            histories are no polars.DataFrame, or k no whole number. ConfigError: the engine cannot
            be used. DataError: a column is missing, of a type that fits no id or time, or has nulls
            (item_id may: such an item is an unknown one); or no item of any user is known.
        """
        request = self.request(k, exclude_seen, diversity, filter, categories, engine)
        return self.answer(histories, request)

    def answer(self, histories: "pl.DataFrame", request: Request) -> "pl.DataFrame":
        """`recommend`, its other arguments checked already."""
        check_histories(histories)
        known = self.known_items(histories)
        self.check_known(histories, known)
        report_unknown(known.ignored, histories.height, known.users_without_items)
        return self.answer_known(known, request)

    def request(
        self,
        k: int,
        exclude_seen: bool = False,
        diversity: float = 0.0,
        filter: "Iterable[int | str] | pl.Series | None" = None,
        categories: "str | Path | pl.DataFrame | None" = None,
        engine: str = AUTO,
    ) -> Request:
        """The arguments of `recommend`, checked; raises as it does."""
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"k: got {k!r}, expected a whole number")
        if k < 1:
            raise ValueError(f"k: got {k}, expected at least 1")
        if not isinstance(exclude_seen, bool):
            raise TypeError(f"exclude_seen: got {exclude_seen!r}, expected True or False")
        check_coefficient(diversity)
        if categories is not None and diversity == 0:
            raise ValueError("categories: got some, expected a diversity above 0 with them")
        items = self.model if filter is None else Subset(self.model, self._indices(filter))
        if engine == AUTO:
            engine = EXACT
            if filter is None and self.item_table.height > APPROXIMATE_FROM:
                engine = _approximate(self.model.num_items)
        elif engine != EXACT and filter is not None:
            raise ValueError(
                f"engine: got {engine!r} with a filter, expected {EXACT!r} or {AUTO!r}"
            )
        if engine not in (EXACT, *self._indexes):
            from remi_fast.retrieval.faiss_index import FaissSearch

            self._indexes[engine] = FaissSearch(self.model, engine)
        labels = self._categories(categories) if diversity > 0 else None
        return Request(k, exclude_seen, diversity, items, engine, labels)

    def _indices(self, filter: "Iterable[int | str] | pl.Series") -> Tensor:
        """The known items of a filter, ascending."""
        import polars as pl

        if isinstance(filter, str | bytes | pl.DataFrame):
            raise TypeError(f"filter: got {shown(filter)}, expected a list or Series of item ids")
        wanted = filter if isinstance(filter, pl.Series) else pl.Series(list(filter), strict=False)
        dtype = self.item_table.schema["item_id"]
        known = self.item_table.filter(
            self.item_table["item_id"].is_in(wanted.cast(dtype, strict=False).implode())
        )
        if known.is_empty():
            ids = self.item_table["item_id"].head(3).to_list()
            raise ValueError(
                f"filter: got {shown(wanted.head(3).to_list())}, {len(wanted)} ids without one of "
                f"the training data; expected item ids of type {dtype} such as {shown(ids)}"
            )
        if unknown := wanted.n_unique() - known.height:
            logger.warning(
                "filter: %d of %d ids are not items of the training data",
                unknown,
                wanted.n_unique(),
            )
        return torch.from_numpy(known["index"].to_numpy().astype(np.int64))

    def _categories(self, source: "str | Path | pl.DataFrame | None") -> Tensor:
        import polars as pl

        if source is not None:
            source = Path(source) if isinstance(source, str) else source
            if not isinstance(source, Path | pl.DataFrame):
                raise TypeError(
                    f"categories: got {shown(source)}, expected a polars.DataFrame or a file"
                )
            return torch.from_numpy(item_categories.read_categories(source, self.item_table))
        if self._clusters is None:
            self._clusters = torch.from_numpy(item_categories.cluster(self.model))
        return self._clusters

    def known_items(self, histories: "pl.DataFrame") -> KnownItems:
        """The known items of checked histories, in order of time."""
        import polars as pl

        if "timestamp" in histories.columns:
            histories = histories.sort("timestamp", maintain_order=True)
        dtype = self.item_table.schema["item_id"]
        rows = histories.select("user_id", pl.col("item_id").cast(dtype, strict=False))
        rows = rows.join(
            self.item_table.select("item_id", "index"),
            on="item_id",
            how="left",
            maintain_order="left",
        )
        known = rows.filter(pl.col("index").is_not_null()).select("user_id", "index")
        users_without_items = rows["user_id"].n_unique() - known["user_id"].n_unique()
        return KnownItems(known, rows.height - known.height, users_without_items)

    def check_known(self, histories: "pl.DataFrame", known: KnownItems) -> None:
        """Raise DataError where nothing of the histories is known."""
        if histories.is_empty():
            raise DataError("histories: got no interactions, expected at least one")
        if known.frame.is_empty():
            dtype = self.item_table.schema["item_id"]
            got = histories["item_id"].head(3).to_list()
            known_ids = self.item_table["item_id"].head(3).to_list()
            raise DataError(
                f"histories: none of the {known.ignored} interactions is with an item of the "
                f"training data (item ids of type {dtype}); expected at least one: "
                f"got item_id {shown(got)}, the model knows {shown(known_ids)} and others"
            )

    def answer_known(self, known: KnownItems, request: Request) -> "pl.DataFrame":
        """The recommendations, as `recommend` returns them; some of the items have to be known."""
        import polars as pl

        users = known.frame.get_column("user_id").unique(maintain_order=True)
        place = pl.DataFrame({"user_id": users, "place": np.arange(len(users))})
        rows = known.frame.join(place, on="user_id", how="left", maintain_order="left")
        rows = rows.sort("place", maintain_order=True)
        items = rows.get_column("index").to_numpy()
        ends = np.cumsum(np.bincount(rows.get_column("place").to_numpy(), minlength=len(users)))
        starts = np.concatenate([[0], ends[:-1]])
        found = [
            self._named(users[block], self._retrieve(items, starts[block], ends[block], request))
            for block in user_blocks(starts, ends, USERS_AT_ONCE)
        ]
        return pl.concat(found)

    def _retrieve(
        self, items: np.ndarray, starts: np.ndarray, ends: np.ndarray, request: Request
    ) -> TopK:
        """What is found for the users with the histories items[starts[u]:ends[u]]."""
        history, length = last_items(items, starts, ends, self.model.max_history)
        interests = self.model.interests(torch.from_numpy(history), torch.from_numpy(length))
        seen = torch.from_numpy(padded(items, starts, ends)) if request.exclude_seen else None
        k = min(request.k, request.items.num_items - 1)
        per_user = interests.shape[1] if request.categories is not None else 1
        most = candidates_for(k, per_user, request.items.num_items)
        if request.engine != EXACT:
            found: TopK = self._indexes[request.engine].search(interests, most, seen)
        elif isinstance(request.items, Subset):
            seen = None if seen is None else request.items.positions(seen)
            found = search(interests, request.items, most, seen)
            found = found._replace(ids=request.items.ids[found.ids])
        else:
            found = search(interests, request.items, most, seen)
        if request.categories is None:
            return found
        place = diversify(found.scores, request.categories[found.ids], k, request.diversity)
        return TopK(*(part.gather(1, place) for part in found))

    def _named(self, users: "pl.Series", found: TopK) -> "pl.DataFrame":
        import polars as pl

        real = (found.ids > 0).numpy()
        row, column = real.nonzero()
        return pl.DataFrame(
            {
                "user_id": users.gather(row),
                "rank": (column + 1).astype(np.int32),
                "item_id": self.item_table["item_id"].gather(found.ids.numpy()[real] - 1),
                "score": found.scores.numpy()[real],
                "interest": found.interest.numpy()[real].astype(np.int32),
            }
        )


def _approximate(num_items: int) -> str:
    """The engine for a large catalogue: exact where faiss is not there."""
    from remi_fast.retrieval.faiss_index import default_factory, load_faiss

    try:
        load_faiss()
    except ConfigError as error:
        logger.info("exact search over %d items: %s", num_items - 1, error)
        return EXACT
    return default_factory(num_items)


def check_histories(histories: "pl.DataFrame") -> None:
    """Raise TypeError or DataError for what cannot be histories."""
    import polars as pl

    if not isinstance(histories, pl.DataFrame):
        raise TypeError(f"histories: got {type(histories).__name__}, expected a polars.DataFrame")
    schema = histories.schema
    for column in ("user_id", "item_id"):
        if column not in schema:
            raise DataError(
                f"histories: no column {column!r}; expected user_id, item_id and, "
                f"if not in order, timestamp (columns found: {listed(schema)})"
                + nearest(column, schema)
            )
    if "timestamp" not in schema and len(schema) > 2:
        logger.warning(
            "histories: no column timestamp, so row order is used (columns found: %s)",
            listed(schema),
        )
    for column, dtype in schema.items():
        text = isinstance(dtype, pl.String | pl.Categorical | pl.Enum)
        fits = {
            "user_id": text or dtype.is_integer(),
            "item_id": text or dtype.is_integer(),
            "timestamp": dtype.is_numeric() or dtype.is_temporal(),
        }
        if not fits.get(column, True):
            raise DataError(
                f"histories: {column} is of type {dtype}, expected "
                + ("numbers or dates" if column == "timestamp" else "whole numbers or text")
            )
        if column in ("user_id", "timestamp") and histories[column].has_nulls():
            row = histories[column].is_null().arg_max()
            raise DataError(f"histories: {column} is null in row {row}, expected a value")


def report_unknown(ignored: int, interactions: int, users_without_items: int) -> None:
    """Warn of what was ignored, if anything was."""
    if ignored:
        logger.warning(
            "%d of %d interactions are with items unknown to the model and are ignored; "
            "users without any known item, who get no recommendations: %d",
            ignored,
            interactions,
            users_without_items,
        )
