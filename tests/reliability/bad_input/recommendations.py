"""What `recommend` is given, and the command line itself."""

import polars as pl

from .case import accepted, nan_in_the_best_weights, refused, without

RECOMMEND = "recommend run --k 3 --out out.csv --histories h.csv"
HISTORY = {"h.csv": "user_id,item_id\nnew,t0-1\n"}


def table(frame):
    """`given` that h.parquet holds this."""
    return lambda folder: frame.write_parquet(folder / "h.parquet")


def recommended(users, each):
    """A check of out.csv: for whom, and how many for each."""

    def check(folder, printed):
        got = pl.read_csv(folder / "out.csv")
        return got["user_id"].to_list() == [user for user in users for _ in range(each)]

    return check


def histories(name, text, where, got, expected):
    """Histories that are refused."""
    return refused(name, RECOMMEND, where, got, expected, {"h.csv": text})


BEST = "run/checkpoints/best: "
CASES = [
    # recommend: arguments
    refused(
        "recommend for nobody",
        "recommend run",
        "--histories FILE and --sample N",
        "got neither",
        "expected one",
        kind=2,
    ),
    refused(
        "recommend for both",
        "recommend run --sample 1 --histories h.csv",
        "--histories FILE and --sample N",
        "got both",
        "expected one",
        HISTORY,
        kind=2,
    ),
    refused(
        "recommend 0 items",
        f"{RECOMMEND} --k 0",
        "--k: ",
        "got 0",
        "expected at least 1",
        HISTORY,
        kind=2,
    ),
    refused(
        "recommend for a sample below 0",
        "recommend run --sample -1",
        "--sample: ",
        "got -1",
        "expected at least 1",
        kind=2,
    ),
    refused(
        "recommend to a .txt",
        "recommend run --sample 1 --out out.txt",
        "--out: ",
        "got 'out.txt'",
        "expected a file name in .parquet, .csv",
        kind=2,
    ),
    refused(
        "recommend to a folder",
        "recommend run --sample 1 --out folder.csv",
        "--out: ",
        "got 'folder.csv'",
        "expected a file name",
        given=lambda folder: (folder / "folder.csv").mkdir(),
        kind=2,
    ),
    refused(
        "recommend over the histories",
        "recommend run --histories h.csv --out h.csv",
        "--out: ",
        "got 'h.csv'",
        "expected another file",
        HISTORY,
        kind=2,
    ),
    refused(
        "recommend to below a file",
        "recommend run --sample 1 --out raw.parquet/out.csv",
        "raw.parquet/out.csv: ",
        "Not a directory: 'raw.parquet",
        "cannot be written",
    ),
    refused(
        "recommend to where nothing can be written",
        "recommend run --sample 1 --out /proc/out.csv",
        "/proc/out.csv: ",
        "No such file",
        "cannot be written",
    ),
    refused(
        "recommend with weights of NaN",
        RECOMMEND,
        f"{BEST}table.weight",
        "got nan",
        "expected finite numbers",
        HISTORY,
        given=nan_in_the_best_weights,
    ),
    refused(
        "recommend without the item table",
        RECOMMEND,
        "run/items.parquet: ",
        "missing",
        "expected [0-9]+ bytes",
        HISTORY,
        given=without("run/items.parquet"),
    ),
    accepted(
        "recommend more than all items",
        "recommend run --sample 1 --k 1000000000000 --out out.csv",
        lambda folder, printed: "96 recommendations for 1 users" in printed,
    ),
    accepted(
        "recommend for more users than there are",
        "recommend run --sample 1000000 --k 1 --out out.csv",
        lambda folder, printed: "30 recommendations for 30 users" in printed,
    ),
    accepted(
        "recommend to a file that is there",
        RECOMMEND,
        recommended(["new"], 3),
        HISTORY | {"out.csv": "something else"},
    ),
    accepted(
        "recommend without the data",
        RECOMMEND,
        recommended(["new"], 3),
        HISTORY,
        given=without("run/data"),
    ),
    # recommend: histories
    histories("empty histories", "", "h.csv: ", "is empty", "expected interactions"),
    histories(
        "histories without items",
        "user_id\n1\n",
        "h.csv: no item column",
        "columns found: 'user_id'",
        "--item-col",
    ),
    histories(
        "histories with a typo",
        "user_id,itm_id\n1,t0-1\n",
        "h.csv: no item column",
        "'itm_id'",
        "did you mean itm_id",
    ),
    histories(
        "histories with a comma without quotes",
        "user_id,title,item_id,price\nnew,Title, the sequel,t0-1,5\n",
        "h.csv:2: ",
        "got 5 fields",
        "expected 4",
    ),
    histories(
        "items that nobody knows",
        "user_id,item_id\n1,t9-1\n1,5\n",
        "histories: none of the 2",
        r"got item_id \['t9-1', '5'\]",
        "expected at least one",
    ),
    histories(
        "a word for a time in histories",
        "user_id,item_id,time\n1,t0-1,soon\n",
        "h.csv:2: timestamp",
        "'soon'",
        "expected a finite number",
    ),
    refused(
        "a column of histories that is not there",
        f"{RECOMMEND} --item-col itm_id",
        "h.csv: no column",
        "'itm_id'",
        "did you mean item_id",
        HISTORY,
    ),
    refused(
        "lists for items",
        "recommend run --histories h.parquet",
        "h.parquet, row 1: item_id",
        r"List\(String\) .first value: \['t0-1', None\]",
        "expected whole numbers or text",
        given=table(pl.DataFrame({"user_id": [1], "item_id": [["t0-1", None]]})),
    ),
    refused(
        "a table of no rows",
        "recommend run --histories h.parquet",
        "h.parquet: ",
        "no interactions",
        "expected at least one",
        given=table(pl.DataFrame({"user_id": [], "item_id": []})),
    ),
    accepted(
        "items and users that nobody knows, beside others",
        RECOMMEND,
        recommended(["new"], 3),
        {"h.csv": "user_id,item_id\nnew,t0-1\nnew,t9-1\nother,t9-1\n"},
    ),
    accepted(
        "users in several places",
        RECOMMEND,
        recommended(["a", "b"], 3),
        {"h.csv": "user_id,item_id\na,t0-1\nb,t0-1\na,t0-1\na,t0-2\n"},
    ),
    # the command line itself
    refused("an unknown command", "inof", "no command", "got 'inof'", "did you mean info", kind=2),
    refused(
        "an unknown option of info",
        "info --jsn",
        "unrecognized arguments",
        "--jsn",
        "did you mean --json",
        kind=2,
    ),
    refused("a word too many", "info here", "arguments", "here", "unrecognized", kind=2),
    # recommend: what is retrieved, and how
    refused(
        "a diversity below 0",
        "recommend run --sample 1 --diversity=-1",
        "--diversity: ",
        "got -1.0",
        "expected 0 to 1e",
        kind=2,
    ),
    refused(
        "a diversity of infinity",
        "recommend run --sample 1 --diversity=inf",
        "diversity: ",
        "got inf",
        "expected a number",
        kind=2,
    ),
    refused(
        "categories without a diversity",
        "recommend run --sample 1 --categories c.csv",
        "--categories: ",
        "got a file",
        "expected --diversity above 0",
        kind=2,
    ),
    refused(
        "no such categories",
        "recommend run --sample 1 --diversity 1 --categories c.csv",
        "c.csv: ",
        "no such file",
        "expected a file in .parquet or .csv",
    ),
    refused(
        "no such filter",
        "recommend run --sample 1 --filter f.csv",
        "f.csv: ",
        "no such file",
        "expected a file in .parquet or .csv",
    ),
    refused(
        "a filter without items",
        "recommend run --sample 1 --filter f.csv",
        "f.csv: ",
        "no column 'item_id'",
        "expected item_id .columns found: 'item'.*did you mean item",
        {"f.csv": "item\nt0-1\n"},
    ),
    refused(
        "a filter of unknown items",
        "recommend run --sample 1 --filter f.csv",
        "--filter: ",
        "got .'zz', 'yy'.",
        "expected item ids of type String such as .'t",
        {"f.csv": "item_id\nzz\nyy\n"},
        kind=2,
    ),
    accepted(
        "a filter of some unknown items",
        f"{RECOMMEND} --filter f.csv",
        recommended(["new"], 1),
        {"f.csv": "item_id\nzz\nt0-3\n", **HISTORY},
    ),
    refused(
        "an engine that is none",
        "recommend run --sample 1 --engine nonsense",
        "engine: ",
        "got 'nonsense'",
        "expected a factory string of faiss",
        kind=2,
    ),
    refused(
        "more lists than items",
        "recommend run --sample 1 --engine IVF4096,Flat",
        "engine: ",
        "got 'IVF4096,Flat'",
        "expected a factory string of faiss for [0-9]+ items",
        kind=2,
    ),
    refused(
        "an index of some items",
        "recommend run --sample 1 --engine Flat --filter f.csv",
        "--engine: ",
        "got 'Flat' with a filter",
        "expected 'exact' or 'auto'",
        {"f.csv": "item_id\nt0-3\n"},
        kind=2,
    ),
    refused(
        "JSON lines and a file",
        f"{RECOMMEND} --json",
        "--json: ",
        "got it beside --out",
        "expected one of them",
        HISTORY,
        kind=2,
    ),
    refused(
        "parts of another command",
        RECOMMEND,
        "--out: ",
        "got 'out.csv', but out.csv.parts holds parts .* left .*k: 4 there, 3 now",
        "expected the same command",
        {"out.csv.parts/plan.json": '{"k": 4}', **HISTORY},
        kind=2,
    ),
    refused(
        "parts without a plan that can be read",
        RECOMMEND,
        "--out: ",
        "got 'out.csv', but out.csv.parts holds parts",
        "expected the same command, or the folder removed",
        {"out.csv.parts/plan.json": "[", **HISTORY},
        kind=2,
    ),
]
