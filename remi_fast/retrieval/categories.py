"""Categories of items: from a file, or clusters of the item vectors where there is none."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from remi_fast.errors import DataError, listed, nearest, shown
from remi_fast.kernels.permutation import permute
from remi_fast.retrieval.search import ItemVectors

if TYPE_CHECKING:
    import polars as pl

logger = logging.getLogger(__name__)

FORMATS = (".parquet", ".csv")
MAX_CLUSTERS = 1000
MAX_SAMPLE = 100_000  # item vectors that the centres are fitted to
ITERATIONS = 20
ITEMS_AT_ONCE = 1 << 16  # vectors read at a time
VALUES_AT_ONCE = 4 << 20  # distances held at a time: 16 MiB

Categories = npt.NDArray[np.int64]


def read_categories(source: "Path | pl.DataFrame", item_table: "pl.DataFrame") -> Categories:
    """Categories of the items of a model, from a table or its Parquet or CSV file.

    Args:
        source: columns item_id and category (whole numbers or text); a row an item. Ids are cast
            to the type of the training data's; unknown ones are ignored.
        item_table: item_id and index (1..I-1), one row an item of the model.

    Returns:
        (I,) int64, from 0; -1 for the padding row 0. Items that the file does not name, or without
        a value, have one category together, "unknown": that nothing is known of two items does not
        make them different. A warning says how many.

    Raises:
        DataError: the file cannot be read, a column is missing or of another type, an item has two
        categories, or no item is known.
    """
    import polars as pl

    path = source if isinstance(source, Path) else "categories"
    frame = _read(source) if isinstance(source, Path) else source
    _check(path, frame, ("item_id", "category"))
    dtype = item_table.schema["item_id"]
    rows = frame.select(pl.col("item_id").cast(dtype, strict=False), "category").unique()
    rows = rows.drop_nulls().join(item_table.select("item_id", "index"), on="item_id")
    if rows.is_empty():
        got, known = (each["item_id"].head(3).to_list() for each in (frame, item_table))
        raise DataError(
            f"{path}: no item of the training data has a category; expected item ids of type "
            f"{dtype}: got item_id {shown(got)}, the model knows {shown(known)} and others"
        )
    twice = rows.filter(rows["item_id"].is_duplicated()).sort("index", "category")
    if not twice.is_empty():
        item, kinds = twice["item_id"][0], twice["category"].head(2).to_list()
        raise DataError(
            f"{path}: item {shown(item)} has the categories {shown(kinds)}, expected one of each"
        )
    if rows.height < item_table.height:
        logger.warning(
            "%s: %d of %d items have no category; they share the category 'unknown'",
            path,
            item_table.height - rows.height,
            item_table.height,
        )
    names, code = np.unique(rows["category"].cast(pl.String).to_numpy(), return_inverse=True)
    categories = np.full(item_table.height + 1, len(names), dtype=np.int64)
    categories[rows["index"].to_numpy()] = code
    categories[0] = -1
    return categories


def read_items(path: Path) -> "pl.Series":
    """The item ids of a Parquet or CSV file with a column item_id. Raises DataError."""
    frame = _read(path)
    _check(path, frame, ("item_id",))
    return frame["item_id"]


def _read(path: Path) -> "pl.DataFrame":
    import polars as pl

    if path.suffix not in FORMATS or not path.is_file():
        what = "no such file" if not path.exists() else "not a table"
        raise DataError(f"{path}: {what}, expected a file in {' or '.join(FORMATS)}")
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path, glob=False)
        else:
            frame = pl.read_csv(path, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: cannot be read as {path.suffix}: {text:.200}") from None
    return frame


def _check(path: Path | str, frame: "pl.DataFrame", columns: Sequence[str]) -> None:
    import polars as pl

    for column in columns:
        if column not in frame.columns:
            raise DataError(
                f"{path}: no column {column!r}; expected {' and '.join(columns)} "
                f"(columns found: {listed(frame.columns)})" + nearest(column, frame.columns)
            )
        dtype = frame.schema[column]
        if not (dtype.is_integer() or isinstance(dtype, pl.String | pl.Categorical | pl.Enum)):
            raise DataError(f"{path}: {column} is of type {dtype}, expected whole numbers or text")


def default_clusters(num_items: int) -> int:
    """How many clusters stand for categories: the square root of the items, 1000 at most."""
    return min(max(1, round((num_items - 1) ** 0.5)), MAX_CLUSTERS)


def cluster(items: ItemVectors, num_clusters: int | None = None) -> Categories:
    """k-means clusters (Lloyd) of the directions of the item vectors, for data without categories.

    Centres begin at distinct items and are fitted to at most 100,000 of them, both chosen by one
    permutation: the same vectors give the same clusters. A centre that loses all its items stays
    where it is.

    num_clusters: 1 to the number of items, else ValueError; `default_clusters` if None.
    Returns (I,) int64 from 0; -1 for the padding row 0.
    """
    count = items.num_items - 1
    num_clusters = default_clusters(items.num_items) if num_clusters is None else num_clusters
    if not 1 <= num_clusters <= count:
        raise ValueError(f"num_clusters: got {num_clusters}, expected 1 to the {count} items")
    size = min(count, MAX_SAMPLE)
    chosen = permute(np.arange(size), count, seed=0, step=0) + 1
    sample = _gather(items, chosen)
    centres = sample[:num_clusters].clone()
    for _ in range(ITERATIONS):
        label = _nearest(sample, centres)
        sums = torch.zeros_like(centres).index_add_(0, label, sample)
        sizes = torch.bincount(label, minlength=num_clusters)
        moved = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    labels = [_nearest(rows, centres) for _, rows in _pieces(items)]
    return np.concatenate([[-1], torch.cat(labels).numpy()])


def _pieces(items: ItemVectors) -> Iterator[tuple[int, Tensor]]:
    """The vectors of all items, of length 1, with the id of the first of each piece."""
    for start in range(1, items.num_items, ITEMS_AT_ONCE):
        yield start, normalize(items.rows(start, start + ITEMS_AT_ONCE))


def _gather(items: ItemVectors, ids: Categories) -> Tensor:
    """Vectors of `ids`, in their order."""
    order = np.argsort(ids)
    ordered = ids[order]
    parts = []
    for start, rows in _pieces(items):
        inside = ordered[
            np.searchsorted(ordered, start) : np.searchsorted(ordered, start + len(rows))
        ]
        parts.append(rows[torch.from_numpy(inside - start)])
    vectors = torch.cat(parts)
    result = torch.empty_like(vectors)
    result[torch.from_numpy(order)] = vectors
    return result


def _nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each vector: (n, d), (c, d) -> (n,) int64."""
    half = centres.square().sum(1) / 2
    step = max(1, VALUES_AT_ONCE // len(centres))
    parts = [
        (vectors[i : i + step] @ centres.T - half).argmax(1) for i in range(0, len(vectors), step)
    ]
    return torch.cat(parts)
