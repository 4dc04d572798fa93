"""Recommendations for more users than memory holds: part by part, resumable after a kill.

The users are split into parts by a hash of their ids. The file of each part is written whole, into
a folder beside the result, and all of them become the result at the end. Who is killed in between
finds the parts there and goes on.
"""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remi_fast import files
from remi_fast.errors import (
    ConfigError,
    CorruptFileError,
    RemiFastError,
    RunFolderError,
    StorageError,
    shown,
)
from remi_fast.retrieval.recommend import Recommender, Request, check_histories, report_unknown

if TYPE_CHECKING:
    import polars as pl

USERS_A_PART = 50_000
ROWS_A_PART = 4_000_000
PLAN = "plan.json"

logger = logging.getLogger(__name__)


@dataclass
class Counts:
    """Of a part, or of all: users, recommendations, interactions and what was ignored of them."""

    users: int = 0
    recommendations: int = 0
    interactions: int = 0
    ignored: int = 0
    users_without_items: int = 0

    def add(self, other: "Counts") -> None:
        """Sum up."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


class StreamedRecommendations:
    """The recommendations that become the file `out`."""

    def __init__(self, out: Path, plan: dict[str, Any]) -> None:
        """plan: all that the result depends on, as JSON; a folder that another plan began is not
        continued. Raises ConfigError then, and StorageError where `out` cannot be written."""
        self.out = out
        self.plan = plan | {"users a part": USERS_A_PART, "interactions a part": ROWS_A_PART}
        self.folder = out.with_name(f"{out.name}.parts")
        self.resumed = (self.folder / PLAN).exists()
        if self.resumed:
            self._check_plan()
        self._made = [parent for parent in self.folder.parents if not parent.exists()]
        with files.storing(out):
            self.folder.mkdir(parents=True, exist_ok=True)
        files.write_json(self.folder / PLAN, self.plan)

    def _check_plan(self) -> None:
        try:
            there = json.loads((self.folder / PLAN).read_text(encoding="utf-8"))
            other = [
                _difference(name, there.get(name), mine)
                for name, mine in self.plan.items()
                if there.get(name) != mine
            ]
        except (OSError, ValueError, AttributeError):
            other = [f"no {PLAN}"]
        if other:
            raise ConfigError(
                f"--out: got {str(self.out)!r}, but {self.folder} holds parts that another command "
                f"left ({', '.join(other)}); expected the same command, or the folder removed"
            )

    def write(
        self,
        recommender: Recommender,
        histories: "Callable[[Path], pl.LazyFrame]",
        request: Request,
        on_progress: Callable[[int, int], None],
    ) -> Counts:
        """Recommend what is still missing, and make the file.

        Args:
            histories: the table, given a folder for temporary files: columns user_id, item_id and,
                unless the rows are in order of time already, timestamp.
            on_progress: called with the parts that are done, and how many there are.

        Raises as `Recommender.recommend`; nothing is left then.
        """
        with files.locked(self.folder) as mine:
            if not mine:
                raise RunFolderError(
                    f"{self.out}: another process is writing it, expected one at a time"
                )
            if self.resumed:
                logger.info("%s: resuming from the finished parts", self.folder)
            try:
                total = self._write_parts(recommender, histories(self.folder), request, on_progress)
                self._join()
            except StorageError:
                raise  # once there is room, the same command goes on
            except RemiFastError:
                shutil.rmtree(self.folder)
                files.remove_empty(self._made)
                raise
            shutil.rmtree(self.folder)
        report_unknown(total.ignored, total.interactions, total.users_without_items)
        return total

    def _write_parts(
        self,
        recommender: Recommender,
        table: "pl.LazyFrame",
        request: Request,
        on_progress: Callable[[int, int], None],
    ) -> Counts:
        parts = _number_of_parts(table)
        total = Counts()
        for part in range(parts):
            on_progress(part, parts)
            path = self.folder / f"{part:06}.json"
            counts = _read_part(path)
            if counts is None:
                counts = self._write_part(recommender, _part(table, part, parts), request, path)
            total.add(counts)
        on_progress(parts, parts)
        if total.ignored == total.interactions:
            head = table.head(3).collect()
            known = replace(recommender.known_items(head), ignored=total.ignored)
            recommender.check_known(head, known)
        return total

    def _write_part(
        self, recommender: Recommender, frame: "pl.DataFrame", request: Request, path: Path
    ) -> Counts:
        check_histories(frame)
        known = recommender.known_items(frame)
        counts = Counts(
            interactions=frame.height,
            ignored=known.ignored,
            users_without_items=known.users_without_items,
        )
        if not known.frame.is_empty():
            found = recommender.answer_known(known, request)
            counts.users, counts.recommendations = found["user_id"].n_unique(), found.height
            _write(path.with_suffix(".parquet"), found.write_parquet)
        files.write_checked_json(path, asdict(counts) | {"file": _checksums(path)})
        return counts

    def _join(self) -> None:
        import polars as pl

        table = pl.scan_parquet(sorted(self.folder.glob("[0-9]*.parquet")), glob=False)
        sinks: dict[str, Callable[[Path], object]] = {
            ".parquet": table.sink_parquet,
            ".csv": table.sink_csv,
            ".jsonl": table.sink_ndjson,
        }
        _write(self.out, sinks[self.out.suffix])


def _difference(name: str, there: Any, mine: Any) -> str:
    if isinstance(mine, list) or isinstance(there, list):  # the state of a file
        return f"{name}: another file or version"
    return f"{name}: {shown(there)} there, {shown(mine)} now"


def _checksums(path: Path) -> dict[str, Any] | None:
    """Of the recommendations of a part; it has none where nobody is known."""
    recommended = path.with_suffix(".parquet")
    return files.checksums(recommended) if recommended.exists() else None


def _read_part(path: Path) -> Counts | None:
    """The counts of a part that is there, whole; None where it has to be made."""
    if not path.exists():
        return None
    try:
        there = files.read_checked_json(path)
        if there.pop("file") != _checksums(path):
            raise CorruptFileError(f"{path.with_suffix('.parquet')}: damaged")
        there.pop("crc32")
        return Counts(**there)
    except (CorruptFileError, KeyError, TypeError) as error:
        logger.warning("recreated: %s", error)
        return None


def _number_of_parts(table: "pl.LazyFrame") -> int:
    import polars as pl

    counted = table.select(pl.len(), pl.col("user_id").approx_n_unique().alias("users"))
    rows, users = counted.collect(engine="streaming").row(0)
    return 1 + max(users // USERS_A_PART, rows // ROWS_A_PART)


def _part(table: "pl.LazyFrame", part: int, parts: int) -> "pl.DataFrame":
    """The rows of the users of a part, in their order."""
    import polars as pl

    if parts > 1:
        table = table.filter(pl.col("user_id").hash() % parts == part)
    return table.collect(engine="streaming")


def _write(path: Path, write: Callable[[Path], object]) -> None:
    import polars as pl

    try:
        files.write_file(path, write)
    except pl.exceptions.PolarsError as error:
        raise StorageError(f"{path}: cannot be written ({error})") from error
