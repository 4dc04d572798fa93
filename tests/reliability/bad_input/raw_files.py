"""Raw interactions that `remi-fast prepare` is given."""

import gzip

from remi_fast.data.dataset import Dataset

from .case import accepted, refused

HEADER = "user,item,time\n"
ROWS = "".join(f"{user},{item},{100 * item}\n" for user in range(20) for item in range(10))
ONE_USER = "".join(f"7,{item},{item}\n" for item in range(10))
TITLES = "user;title;item;price\n" + "".join(f"{n};a;{n};1\n" for n in range(20))
GOOD = HEADER + ROWS  # line 202 is the one after it
PREPARE = "prepare x.csv --out out"
KEEP_ALL = PREPARE + " --filter none"


def csv(content):
    return {"x.csv": content}


def line(name, text, got, expected, where="x.csv:202: "):
    """A last line that is refused."""
    text = text if isinstance(text, bytes) else text.encode()
    return refused(name, PREPARE, where, got, expected, csv(GOOD.encode() + text))


def json_line(name, text, got, expected):
    """A second line of JSON that is refused."""
    content = '{"user": 1, "item": 2}\n' + text + "\n"
    words = "prepare x.jsonl --out out"
    return refused(name, words, "x.jsonl:2: ", got, expected, {"x.jsonl": content})


def data(**expected):
    """A check of the dataset: counts, or values of the first user's sequence as raw ids."""

    def check(folder, printed):
        dataset = Dataset.open(folder / "out")
        first = dataset.items[: dataset.offsets[1]]
        got = dataset.manifest["counts"] | {
            "first": dataset.item_table["item_id"].gather(first - 1).to_list(),
            "user_ids": dataset.user_table["user_id"].to_list(),
            "item_ids": sorted(dataset.item_table["item_id"].to_list()),
        }
        return {name: got[name] for name in expected} == expected

    return check


INTACT = data(users=20, items=10, interactions=200, first=list(range(10)))

CASES = [
    # the file as a whole
    refused("an empty file", PREPARE, "x.csv", "is empty", "interactions", csv("")),
    refused("a header alone", PREPARE, "x.csv", "only a header", "at least one", csv(HEADER)),
    refused(
        "blank lines alone",
        PREPARE,
        "x.csv",
        "no interactions",
        "at least one",
        csv(HEADER + "\n\n"),
    ),
    refused(
        "one column",
        PREPARE,
        "x.csv: no item",
        "columns found: 'user'",
        "--item-col",
        csv("user\n1\n"),
    ),
    refused(
        "a mark of byte order alone",
        PREPARE,
        "x.csv",
        "found: none",
        "--user-col",
        csv(b"\xef\xbb\xbf"),
    ),
    accepted("a mark of byte order", PREPARE, INTACT, csv(b"\xef\xbb\xbf" + GOOD.encode())),
    accepted("CRLF", PREPARE, INTACT, csv(GOOD.replace("\n", "\r\n"))),
    refused(
        "CR alone", PREPARE, "x.csv", "end with CR", "LF or CRLF", csv(GOOD.replace("\n", "\r"))
    ),
    refused(
        "NUL bytes alone", PREPARE, "x.csv", "found: .{1,200}\\)", "--user-col", csv(b"\0" * 4096)
    ),
    line("a NUL byte", "1\0,2,3\n", r"user_id is '1\\x00'", "without NUL bytes"),
    line("not UTF-8", b"1,\xff,3\n", "byte 0xff", "expected UTF-8"),
    refused("UTF-16", PREPARE, "x.csv:1: ", "byte 0xff", "UTF-8", csv(GOOD.encode("utf-16"))),
    line(
        "a very long number",
        "1," + "9" * 3_000_000 + ",5\n",
        "item_id is '9{10,}.*'",
        "within int64",
        where="x.csv, row 201",
    ),
    accepted(
        "a very long text",
        KEEP_ALL,
        data(users=20, items=11),
        csv(GOOD + "1," + "a" * 3_000_000 + ",5\n"),
    ),
    refused(
        "a very long line of nothing",
        PREPARE,
        "x.csv",
        "field limit",
        "interactions",
        csv("a" * 3_000_000),
    ),
    refused(
        "a very long name",
        PREPARE,
        "x.csv",
        "'u{10,}.{3}u+', 'item'",
        "--user-col",
        csv("u" * 100_000 + ",item\n1,2\n"),
    ),
    refused(
        "a thousand columns",
        PREPARE,
        "x.csv",
        "1000 in all",
        "--user-col",
        csv(",".join(f"c{n}" for n in range(1000)) + "\n"),
    ),
    # rows
    line("a field less", "1,2\n", "2 fields", "expected 3"),
    *(
        refused(
            f"{what} in {name}",
            f"prepare {name} --out out",
            f"{name}:22: ",
            f"got {fields} fields",
            "expected 4",
            {name: (TITLES + row).replace(";", separator)},
        )
        for what, row, fields in (
            ("a separator without quotes", "3;Title; the sequel;7;5\n", 5),
            ("a title less", "3;7;5\n", 3),
        )
        for name, separator in (("x.csv", ","), ("x.tsv", "\t"), ("x.inter", "\t"))
    ),
    line("a field more", "1,2,3,4\n", "4 fields", "expected 3"),
    line(
        "a quote that is not closed",
        '1,"a,3\n',
        "unexpected end",
        "whole records; a quote from line 202 on may not be closed",
        where="x.csv, after line 201",
    ),
    accepted(
        "a newline in quotes",
        KEEP_ALL,
        data(first=["a\nb", "c"]),
        csv(HEADER + '1,"a\nb",2\n1,c,3\n2,c,4\n'),
    ),
    accepted("rows that are there twice", PREPARE, data(interactions=400), csv(HEADER + ROWS * 2)),
    accepted(
        "times that are not sorted",
        PREPARE,
        INTACT,
        csv(HEADER + "".join(reversed(ROWS.splitlines(keepends=True)))),
    ),
    # ids
    accepted(
        "ids below 0",
        KEEP_ALL,
        data(user_ids=[-1, *range(20)]),
        csv(HEADER + ROWS.replace("\n0,", "\n-1,")),
    ),
    accepted(
        "ids of 2^31 and 2^63 - 1",
        KEEP_ALL,
        data(users=22),
        csv(GOOD + f"{2**31},5,1\n{2**63 - 1},5,1\n"),
    ),
    line("an id of 2^63", f"{2**63},5,1\n", f"user_id is '{2**63}'", "within int64"),
    line("an id of 2^64", f"1,{2**64},1\n", f"item_id is '{2**64}'", "within int64"),
    line("a fraction for an id", "1.5,5,1\n", "user_id is '1.5'", "a whole number"),
    line("NaN for an id", "nan,5,1\n", "user_id is 'nan'", "a whole number"),
    line("no id", ",5,1\n", "user_id is empty", "a value"),
    accepted("null is text in CSV", KEEP_ALL, data(users=21), csv(GOOD + "null,5,1\n")),
    # times
    line("no time", "1,5,\n", "timestamp is empty", "a value"),
    line("NaN for a time", "1,5,nan\n", "is 'nan'", "a finite number"),
    line("a time beyond floats", "1,5,1e400\n", "is '1e400'", "a finite number"),
    line("a word for a time", "1,5,soon\n", "is 'soon'", "ISO 8601"),
    refused(
        "no times, and a split by time",
        PREPARE + " --split temporal",
        "x.csv",
        "no time column",
        "--time-col",
        csv("user,item\n1,2\n"),
    ),
    # too little
    refused(
        "one interaction", KEEP_ALL, "the split", "out of 1", "more users", csv(HEADER + "1,5,1\n")
    ),
    refused(
        "one user",
        KEEP_ALL,
        "the split",
        "no user to train on, out of 1",
        "another split",
        csv(HEADER + ONE_USER),
    ),
    accepted(
        "one user, split by items",
        KEEP_ALL + " --split leave-one-out",
        data(users=1),
        csv(HEADER + ONE_USER),
    ),
    accepted(
        "one item",
        KEEP_ALL,
        data(users=20, items=1, first=[7] * 5),
        csv(HEADER + "".join(f"{user},7,1\n" for user in range(20) for _ in range(5))),
    ),
    accepted(
        "users of one item",
        KEEP_ALL,
        data(users=20),
        csv(HEADER + "".join(f"{user},7,1\n" for user in range(20))),
    ),
    refused(
        "all filtered away",
        PREPARE + " --min-item 99",
        "the filter 'one-pass'",
        "drops every interaction .raw: 20 users",
        "lower --min-item",
        csv(GOOD),
    ),
    # columns
    refused(
        "a column that is not there",
        PREPARE + " --user-col usr",
        "x.csv",
        "no column 'usr'",
        "did you mean user",
        csv(GOOD),
    ),
    refused(
        "a name with a typo",
        PREPARE,
        "x.csv",
        "no item column",
        "did you mean itm_id",
        csv("user_id,itm_id\n1,2\n"),
    ),
    refused(
        "one column for two",
        PREPARE + " --user-col item",
        "x.csv",
        "'user': 'item', 'item': 'item'",
        "a column for each",
        csv(GOOD),
    ),
    refused(
        "a column twice",
        PREPARE,
        "x.csv",
        "2 columns .* 'user', 'user'",
        "expected one",
        csv("user,user,item\n1,2,3\n"),
    ),
    # other formats
    refused(
        "no gzip",
        "prepare x.jsonl.gz --out out",
        "x.jsonl.gz",
        "Not a gzipped file",
        "interactions",
        {"x.jsonl.gz": "no"},
    ),
    refused(
        "half a gzip",
        "prepare x.jsonl.gz --out out",
        "x.jsonl.gz",
        "ended before|end-of-stream|[Uu]nexpected end",
        "interactions",
        {"x.jsonl.gz": gzip.compress(b'{"user": 1, "item": 2}\n' * 99)[:-20]},
    ),
    refused(
        "no Parquet",
        "prepare x.parquet --out out",
        "x.parquet",
        "parquet",
        "interactions",
        {"x.parquet": "PAR1 PAR1"},
    ),
    json_line("a broken line of JSON", '{"user": 1', "malformed JSON", "[Ee]xpecting"),
    json_line(
        "a list for an id",
        '{"user": 1, "item": [2, null]}',
        r"item_id is \[2, None\]",
        "a number or text",
    ),
    json_line("NaN in JSON", '{"user": 1, "item": NaN}', "NaN", "malformed JSON"),
    json_line("no object", "[1, 2]", "a JSON list", "an object per line"),
    refused(
        "a comma in a header of .inter",
        "prepare x.inter --out out",
        "x.inter",
        "'user_id,item_id'",
        "--user-col",
        {"x.inter": "user_id,item_id\n1,2\n"},
    ),
    refused(
        "a field of 200,000 characters in a header",
        PREPARE,
        "x.csv: cannot be read",
        "field larger than",
        "expected interactions",
        csv("user," + "i" * 200_000 + GOOD),
    ),
    *(
        refused(
            f"a folder that begins with {what}",
            "prepare split --out out",
            "x_train.txt",
            got,
            expected,
            {"split/x_train.txt": content, "split/x_valid.txt": "", "split/x_test.txt": ""},
        )
        for what, content, got, expected in (
            ("200,000 characters", "u" * 200_000 + ",1,1\n", "field larger", "interactions"),
            ("latin 1", b"\xe9,1,1\n", "byte 0xe9", "UTF-8 text"),
        )
    ),
    refused(
        "an unknown ending",
        "prepare x.xlsx --out out",
        "x.xlsx",
        "'.xlsx'",
        "one of .parquet",
        {"x.xlsx": "1"},
    ),
    refused(
        "two formats",
        "prepare x.csv y.tsv --out out",
        "y.tsv",
        "a .tsv file after a .csv",
        "one format",
        csv(GOOD) | {"y.tsv": GOOD},
    ),
    refused(
        "a file twice",
        "prepare x.csv ./x.csv --out out",
        "x.csv",
        "more than once",
        "every file once",
        csv(GOOD),
    ),
    # paths
    refused(
        "no file", "prepare none.csv --out out", "none.csv", "no such file", "raw interactions"
    ),
    refused(
        "an empty folder",
        "prepare empty --out out",
        "empty: ",
        "nothing in it can be read",
        "expected [*]_train.txt",
        given=lambda folder: (folder / "empty").mkdir(),
    ),
    refused(
        "what is prepared already",
        "prepare data --out out",
        "data: ",
        "prepared already",
        "raw interactions",
    ),
    refused(
        "a folder that is there",
        "prepare x.csv --out data",
        "data",
        "data: exists",
        "does not exist yet",
        csv(GOOD),
    ),
    refused(
        "a file for the folder",
        "prepare x.csv --out x.csv",
        "x.csv",
        "x.csv: exists",
        "does not exist yet",
        csv(GOOD),
    ),
    refused(
        "a folder below a file",
        "prepare x.csv --out x.csv/out",
        "x.csv/out",
        "Not a directory",
        "cannot be written",
        csv(GOOD),
    ),
    refused(
        "where nothing can be written",
        "prepare x.csv --out /proc/none/out",
        "/proc/none/out",
        "No such file",
        "cannot be written",
        csv(GOOD),
    ),
    refused(
        "a name that is too long",
        f"prepare x.csv --out {'o' * 300}",
        "ooo",
        "too long",
        "name",
        csv(GOOD),
    ),
    refused(
        "bad data, in new folders",
        "prepare x.csv --out a/b/out",
        "x.csv",
        "only a header",
        "at least one",
        csv(HEADER),
    ),
    # options
    refused(
        "a count of 0",
        PREPARE + " --min-item 0",
        "min_item",
        "got 0",
        "at least 1",
        csv(GOOD),
        kind=2,
    ),
    refused(
        "a word for a count",
        PREPARE + " --min-user few",
        "--min-user",
        "got few",
        "a whole number",
        csv(GOOD),
        kind=2,
    ),
    refused(
        "a seed below 0", PREPARE + " --seed -1", "seed", "got -1", "0 <= seed", csv(GOOD), kind=2
    ),
    refused(
        "a seed of 2^64",
        PREPARE + f" --seed {2**64}",
        "seed",
        f"got {2**64}",
        r"2\^64",
        csv(GOOD),
        kind=2,
    ),
    refused(
        "an unknown filter",
        PREPARE + " --filter kcore",
        "--filter",
        "'kcore'",
        "did you mean k-core",
        csv(GOOD),
        kind=2,
    ),
    refused(
        "an unknown option",
        PREPARE + " --min-itm 3",
        "unrecognized",
        "--min-itm",
        "did you mean --min-item",
        csv(GOOD),
        kind=2,
    ),
    refused("nothing to prepare", "prepare --out out", "arguments", "required", "sources", kind=2),
]
