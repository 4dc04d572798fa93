"""Recommendations for histories of known or new users: raw ids in, raw ids out."""

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from remi_fast.errors import DataError, listed, nearest, shown
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.retrieval.evaluate import USERS_AT_ONCE
from remi_fast.retrieval.histories import last_items, padded
from remi_fast.retrieval.search import search

if TYPE_CHECKING:
    import polars as pl

logger = logging.getLogger(__name__)


def _check_histories(histories: "pl.DataFrame") -> None:
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

    def recommend(
        self, histories: "pl.DataFrame", k: int = 50, exclude_seen: bool = False
    ) -> "pl.DataFrame":
        """The k best items for each user, by exact search over the whole catalogue.

        Args:
            histories: columns user_id and item_id (raw ids, cast to the type of the training
                data's) and, unless the rows are in order of time already, timestamp. The users
                need not have been trained on. The most recent `max_history` items count.
            k: how many items, >= 1; fewer where the catalogue has fewer.
            exclude_seen: never recommend an item of the user's history.

        Returns:
            user_id, rank (from 1), item_id, score (float32), interest (from 0: the user's vector
            that retrieved the item); users in the order they first occur, best item first.

        Items that were not in the training data are ignored, with a logged warning; users of whom
        nothing is left get no rows, also with a warning.

        Raises:
            ValueError: k < 1. TypeError: histories are no polars.DataFrame, or k no whole number.
            DataError: a column is missing, of a type that fits no id or time, or has nulls (item_id
            may: such an item is an unknown one); or no item of any user is known.
        """
        import polars as pl

        if not isinstance(k, int):
            raise TypeError(f"k: got {k!r}, expected a whole number")
        if k < 1:
            raise ValueError(f"k: got {k}, expected at least 1")
        _check_histories(histories)
        known = self._known(histories)
        users = known.get_column("user_id").unique(maintain_order=True)
        place = pl.DataFrame({"user_id": users, "place": np.arange(len(users))})
        known = known.join(place, on="user_id", how="left", maintain_order="left")
        known = known.sort("place", maintain_order=True)
        items = known.get_column("index").to_numpy()
        ends = np.cumsum(np.bincount(known.get_column("place").to_numpy(), minlength=len(users)))
        starts = np.concatenate([[0], ends[:-1]])
        k = min(k, self.model.num_items - 1)
        blocks = [
            self._block(
                users[begin : begin + USERS_AT_ONCE],
                items,
                starts[begin : begin + USERS_AT_ONCE],
                ends[begin : begin + USERS_AT_ONCE],
                k,
                exclude_seen,
            )
            for begin in range(0, len(users), USERS_AT_ONCE)
        ]
        return pl.concat(blocks)

    def _known(self, histories: "pl.DataFrame") -> "pl.DataFrame":
        """user_id and index of the known items, in order of time."""
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
        known = rows.filter(pl.col("index").is_not_null())
        if known.is_empty():
            got = histories["item_id"].head(3).to_list()
            known_ids = self.item_table["item_id"].head(3).to_list()
            raise DataError(
                f"histories: none of the {rows.height} interactions is with an item of the "
                f"training data (item ids of type {dtype}); expected at least one: "
                f"got item_id {shown(got)}, the model knows {shown(known_ids)} and others"
            )
        if known.height < rows.height:
            lost = rows["user_id"].n_unique() - known["user_id"].n_unique()
            logger.warning(
                "%d of %d interactions are with items unknown to the model and are ignored; "
                "users without any known item, who get no recommendations: %d",
                rows.height - known.height,
                rows.height,
                lost,
            )
        return known.select("user_id", "index")

    def _block(
        self,
        users: "pl.Series",
        items: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        k: int,
        exclude_seen: bool,
    ) -> "pl.DataFrame":
        import polars as pl

        history, length = last_items(items, starts, ends, self.model.max_history)
        interests = self.model.interests(torch.from_numpy(history), torch.from_numpy(length))
        seen = torch.from_numpy(padded(items, starts, ends)) if exclude_seen else None
        found = search(interests, self.model, k, seen)
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
