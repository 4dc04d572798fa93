"""What `evaluate` is given beside a run."""

import json

from .case import accepted, refused, without

DIVERSITY = "evaluate run --diversity 0.1"
GIVEN = "evaluate run --categories c.csv --diversity 0.1"
ITEMS = "item_id,category\nt0-1,a\nt0-2,b\n"


def categories(name, text, where, got, expected):
    """A file of categories that is refused."""
    return refused(name, GIVEN, where, got, expected, {"c.csv": text})


def usage(name, do, where, got, expected, files=None):
    """A command whose words are refused."""
    return refused(name, do, where, got, expected, files, kind=2)


CASES = [
    # diversity
    usage(
        "diversity below 0",
        "evaluate run --diversity 0.1 -0.1",
        "--diversity: ",
        "got -0.1",
        "expected 0 to 1e",
    ),
    usage("diversity of NaN", "evaluate run --diversity nan", "diversity: ", "got nan", "a number"),
    usage(
        "diversity without end",
        "evaluate run --diversity inf",
        "diversity: ",
        "got inf",
        "a number",
    ),
    usage(
        "diversity in words", "evaluate run --diversity much", "diversity: ", "got much", "a number"
    ),
    usage(
        "diversity of nothing", "evaluate run --diversity", "--diversity", "expected", "expected"
    ),
    accepted(
        "more diversity than there are categories",
        f"{GIVEN} 1e30 --json --k 5000",
        lambda folder, out: json.loads(out)["diversity"][1]["coefficient"] == 1e30,
        {"c.csv": ITEMS},
    ),
    # categories
    usage(
        "categories for nothing",
        "evaluate run --categories c.csv",
        "--categories: ",
        "got 'c.csv'",
        "expected --diversity or --all-metrics",
        {"c.csv": ITEMS},
    ),
    refused(
        "categories that are not there",
        f"{DIVERSITY} --categories none.csv",
        "none.csv: ",
        "no such file",
        "expected a file in .parquet or .csv",
    ),
    refused(
        "categories in another format",
        f"{DIVERSITY} --categories c.txt",
        "c.txt: ",
        "not a table",
        "expected a file in .parquet or .csv",
        {"c.txt": ITEMS},
    ),
    refused(
        "categories that are no Parquet",
        f"{DIVERSITY} --categories c.parquet",
        "c.parquet: ",
        "cannot be read",
        "as .parquet",
        {"c.parquet": b"PAR1 nothing"},
    ),
    categories("empty categories", "", "c.csv: ", "cannot be read as .csv", "empty"),
    categories(
        "categories without a column",
        "item_id,categry\nt0-1,a\n",
        "c.csv: no column 'category'",
        "'categry'",
        "did you mean categry",
    ),
    categories(
        "categories of other items",
        "item_id,category\n7,a\n",
        "c.csv: no item of the training data",
        r"got item_id \['7'\]",
        r"knows \['t",
    ),
    categories(
        "no categories below the header",
        "item_id,category\n",
        "c.csv: no item",
        r"got item_id \[\]",
        "expected item ids of type String",
    ),
    categories(
        "an item of two categories",
        f"{ITEMS}t0-1,c\n",
        "c.csv: item 't0-1'",
        r"\['a', 'c'\]",
        "expected one of each",
    ),
    # another run
    refused(
        "against no run",
        "evaluate run --against none",
        "none: ",
        "no such folder",
        "made by `remi-fast train`",
    ),
    refused(
        "against a dataset",
        "evaluate run --against data",
        "data: ",
        "not a run",
        "a folder made by",
    ),
    refused(
        "against a run on other data",
        "evaluate run --against otherwise",
        "otherwise: trained on other data",
        "got checksum",
        "expected .*that of run",
    ),
    refused(
        "against a run without weights",
        "evaluate wider --against weightless",
        "weightless: ",
        "kept no weights",
        "expected 'all' or 'best'",
    ),
    refused(
        "against a run without its record",
        "evaluate run --against wider",
        "wider/data.json: ",
        "missing",
        "expected it",
        given=without("wider/data.json"),
    ),
    usage(
        "against, and more",
        "evaluate run --against wider --groups",
        "--against: ",
        "got --all-metrics, --groups",
        "expected none of them",
    ),
    accepted(
        "against itself",
        "evaluate run --against run",
        lambda folder, out: "the runs are identical for every user" in out,
    ),
]
