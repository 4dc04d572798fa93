"""What `export` is given, and what is given as an export."""

from remi_fast.errors import RunFolderError
from remi_fast.export import load_export

from .case import nan_in_the_best_weights, refused, without

EXPORT = "export run --out out --formats npy"


def missing(name, run, where, got, expected, **more):
    """Runs that cannot be exported."""
    words = f"export {run} --out out --formats npy"
    return refused(name, words, where, got, expected, **more)


def use(name, words, where, got, expected):
    """Words of the command that are refused."""
    return refused(name, words, where, got, expected, kind=2)


def onto_a_file(folder):
    (folder / "out").write_text("mine")


COMMANDS = [
    missing(
        "an export of nothing", "none", "none: ", "no such folder", "expected a folder made by"
    ),
    missing("an export of a dataset", "data", "data: ", "not a run folder", "expected a folder"),
    missing(
        "an export without weights",
        "weightless",
        "weightless: ",
        "got train.checkpoints 'none'",
        "expected 'all' or 'best'",
    ),
    missing(
        "an export before the first validation",
        "run",
        "run: ",
        "has no best checkpoint yet",
        "until its first validation",
        given=without("run/checkpoints/best"),
    ),
    missing(
        "an export of NaN",
        "run",
        "table.weight",
        "got nan",
        "expected finite",
        given=nan_in_the_best_weights,
    ),
    missing(
        "an export without items",
        "run",
        "items.parquet: ",
        "file is missing",
        "expected [0-9]+ bytes",
        given=without("run/items.parquet"),
    ),
    refused(
        "an export onto a run", "export run --out data", "data: ", "exists", "expected a folder"
    ),
    refused(
        "an export onto a file",
        EXPORT,
        "out: ",
        "exists already",
        "does not exist yet",
        given=onto_a_file,
    ),
    use("an export in no format", "export run --out out --formats", "--formats", "0|expected", ""),
    use("an export as pickle", "export run --out out --formats pkl", "--formats: ", "'pkl'", "npy"),
    use("an export to nowhere", "export run", "--out|out", "", "required"),
    use(
        "a faiss factory without faiss",
        f"{EXPORT} --faiss Flat",
        "--faiss: ",
        "got 'Flat'",
        "expected 'faiss' among --formats",
    ),
    use(
        "an index of no kind",
        "export run --out out --formats faiss --faiss Flt",
        "--faiss: ",
        "got 'Flt'",
        "expected a factory string of faiss",
    ),
]


def opened(name, path, kind, where, got, expected):
    """Folders that are no export."""
    return refused(name, lambda: load_export(path), where, got, expected, kind=kind)


CALLS = [
    opened(
        "an export that is not there", "none", RunFolderError, "none: ", "no such", "expected a"
    ),
    opened("a run as an export", "run", RunFolderError, "run: ", "got no manifest", "expected a f"),
    opened(
        "a dataset as an export",
        "data",
        RunFolderError,
        "manifest.json: ",
        "got .*remi-fast-dataset",
        "expected .*remi-fast-export",
    ),
]
