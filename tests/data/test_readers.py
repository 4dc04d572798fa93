"""Every format gives the same interactions; malformed input gives an error that says where."""

import gzip
import json

import polars as pl
import pytest

from remi_fast.data.readers import ColumnNames, read
from remi_fast.errors import DataError

ROWS = [(7, "a", 30), (7, "b", 10), (12, "a", 20), (12, "c", 20), (12, "b", 5)]
NAMES = ["user_id", "item_id", "timestamp"]


def text(separator, header=NAMES, rows=ROWS, end="\n"):
    return end.join(separator.join(map(str, row)) for row in [header, *rows]) + end


def json_lines(rows=ROWS):
    return "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows)


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_one(path, **names):
    return read([path], ColumnNames(**names))


EXPECTED = pl.DataFrame(ROWS, schema=NAMES, orient="row")


@pytest.mark.parametrize(
    "name, content",
    [
        ("x.csv", text(",")),
        ("x.tsv", text("\t")),
        ("x.csv", b"\xef\xbb\xbf" + text(",").encode()),
        ("x.csv", text(",", end="\r\n")),
        ("x.csv", text(",") + "\n\n"),
        ("x.inter", text("\t", ["user_id:token", "item_id:token", "timestamp:float"])),
        ("x.jsonl", json_lines()),
        ("x.jsonl", b"\xef\xbb\xbf" + json_lines().encode()),
        ("x.jsonl.gz", gzip.compress(json_lines().encode(), mtime=0)),
        ("x.csv", text(",", ["Visitor-ID", "asin", "unixReviewTime"])),
        ("x.csv.gz", gzip.compress(text(",").encode(), mtime=0)),
        ("x.tsv.gz", gzip.compress(b"\xef\xbb\xbf" + text("\t").encode(), mtime=0)),
    ],
)
def test_formats(tmp_path, name, content):
    got = read_one(write(tmp_path / name, content))
    assert got.frame.equals(EXPECTED) and got.frame.schema == EXPECTED.schema
    assert not got.presplit


def test_parquet_and_several_files(tmp_path):
    EXPECTED[:2].write_parquet(tmp_path / "a.parquet")
    EXPECTED[2:].write_parquet(tmp_path / "b.parquet")
    both = read([tmp_path / "a.parquet", tmp_path / "b.parquet"], ColumnNames())
    assert both.frame.equals(EXPECTED)


OTHER_COLUMNS = "user,title,item,price\n1,a,5,3\n2,b,6,4\n"


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.inter", "x.csv.gz"])
@pytest.mark.parametrize(
    "row, fields",
    [
        ("3,Title, the sequel,7,5\n", 5),
        ("3,Title,7,5,\n", 5),
        ("3,Title, the sequel,7,", 5),
        ("3,7,5\n", 3),
        ("3\n", 1),
    ],
    ids=["a comma", "an empty field", "a comma at the end of the file", "no title", "one field"],
)
def test_a_row_with_a_field_more_or_less(tmp_path, name, row, fields):
    content = OTHER_COLUMNS + row
    if name in ("x.tsv", "x.inter"):
        content = content.replace(",", "\t")
    packed = gzip.compress(content.encode()) if name.endswith(".gz") else content
    with pytest.raises(DataError, match=f"{name}:4: got {fields} fields, expected 4"):
        read_one(write(tmp_path / name, packed))


def test_rows_that_are_long_in_lines_or_characters_but_not_in_fields(tmp_path):
    rows = '3,"Title, the ""sequel""\n of two",7,\n\n  \n,,\n4,,8,""'
    frame = read_one(write(tmp_path / "x.csv", OTHER_COLUMNS + rows)).frame
    assert frame.rows() == [(1, 5), (2, 6), (3, 7), (4, 8)]


def test_a_gzip_file_that_is_cut_off(tmp_path):
    packed = gzip.compress(json_lines([(n, n * n, n**3) for n in range(10_000)]).encode())
    with pytest.raises(DataError, match=r"x.jsonl.gz, after line 9\d*: .* ended before"):
        read_one(write(tmp_path / "x.jsonl.gz", packed[:-500]))


LONG = "2,b,6,4\n" * 20_000


@pytest.mark.parametrize(
    "content, after",
    [
        (OTHER_COLUMNS + '3,"c,7,5\n' + LONG, 3),
        (OTHER_COLUMNS + '3,"c" d,7,5\n', 3),
        ('user,title,item,price\n3,"c,7,5\n' + LONG, 1),
        ('"user,title,item,price\n' + LONG, 0),
    ],
    ids=["in a row", "not doubled", "in the first row", "in the header"],
)
def test_a_quote_that_is_not_closed(tmp_path, content, after):
    message = f"a quote from line {after + 1} on may not be closed"
    with pytest.raises(DataError, match=message) as caught:
        read_one(write(tmp_path / "x.csv", content))
    assert f"x.csv, after line {after}: " in str(caught.value) or not after


def test_a_field_that_is_too_long_without_a_quote(tmp_path):
    with pytest.raises(DataError, match=r"field limit \(131072\); expected whole records$"):
        read_one(write(tmp_path / "x.csv", OTHER_COLUMNS + "3," + "c" * 200_000 + ",7,5,5\n"))


@pytest.mark.parametrize("fields", [3, 4])
def test_folder_that_is_split_already(tmp_path, fields):
    lines = {"train": [(1, 5, 0), (1, 6, 1)], "valid": [(2, 5, 3)], "test": [(3, 6, 9), (3, 5, 9)]}
    for part, rows in lines.items():
        if fields == 4:
            rows = [(u, i, index, t) for index, (u, i, t) in enumerate(rows)]
        content = "".join(",".join(map(str, row)) + "\n" for row in rows)
        write(tmp_path / f"book_{part}.txt", content)
    got = read([tmp_path], ColumnNames())
    assert got.presplit
    by_user = {
        user: (items, parts)
        for user, items, parts in got.frame.group_by("user_id").agg("item_id", "part").iter_rows()
    }
    assert {u: (list(i), set(p)) for u, (i, p) in by_user.items()} == {
        1: ([5, 6], {0}),
        2: ([5], {1}),
        3: ([6, 5], {2}),
    }


def test_ids_that_are_not_plain_numbers_stay_text(tmp_path):
    file = write(tmp_path / "x.csv", "user,item\n007,1\n7,2\n")
    frame = read_one(file).frame
    assert frame["user_id"].to_list() == ["007", "7"] and frame["item_id"].to_list() == [1, 2]
    assert read_one(file).columns.time is None


@pytest.mark.parametrize(
    "values",
    [["2024-01-01", "2024-01-02"], ["2024-01-01T00:00:00Z", "2024-01-02T01:00:00+01:00"]],
)
def test_dates_become_microseconds(tmp_path, values):
    content = "user,item,date\n" + "".join(f"1,{i},{v}\n" for i, v in enumerate(values))
    times = read_one(write(tmp_path / "x.csv", content)).frame["timestamp"]
    first = 1_704_067_200 * 10**6
    assert times.to_list() == [first, first + 24 * 3600 * 10**6]


def test_columns_by_name(tmp_path):
    file = write(tmp_path / "x.csv", "who,what,when,user_id\n1,2,3,4\n")
    got = read_one(file, user="who", item="what", time="when")
    assert got.frame.row(0) == (1, 2, 3)
    assert (got.columns.user, got.columns.item, got.columns.time) == ("who", "what", "when")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.csv", "", "x.csv: the file is empty"),
        ("x.csv", "user,item\n", "no interactions, only a header"),
        (
            "x.csv",
            "user,thing\n1,2\n",
            r"no item column; name it with --item-col .*'user', 'thing'",
        ),
        ("x.csv", "user_id,thing,time\n1,2,3\n", r"'time'\); the first line must name the col"),
        ("x.csv", "user_id,items,time\n1,2,3\n", r"'time'\); did you mean items\?"),
        ("x.csv", "u17,sku-17-02\n1,2\n", r"'sku-17-02'\); the first line must name the columns"),
        ("x.csv", "user;item\n1;2\n", "the first line is separated by ';', expected ','"),
        ("x.csv", "user\titem\n1\t2\n", r"the first line is separated by '\\t', expected ','"),
        ("x.inter", "user|item\n1|2\n", r"the first line is separated by '\|', expected '\\t'"),
        ("x.jsonl", '{"user_id": 1, "thing": 2}\n', r"'thing'\)$"),
        ("x.csv", "user,user_id,item\n1,2,3\n", "2 columns may be the user: 'user', 'user_id'"),
        ("x.csv", "user,item\n1,2\n3,4,5\n", r"x.csv:3: got 3 fields, expected 2"),
        ("x.csv", "user,item\n1,2\n3,\n", r"x.csv:3: item_id is empty"),
        ("x.csv", "user,item\n1,2\n3.5,4\n", r"x.csv:3: user_id is '3.5', expected a whole number"),
        ("x.csv", "user,item,ts\n1,2,nan\n", "expected a finite number or an ISO 8601"),
        ("x.csv", "user,item,ts\n1,2,3\n1,2,soon\n", "x.csv:3: timestamp is 'soon'"),
        ("x.csv", b"user,item\n1,2\n\xff\xfe,3\n", "not UTF-8"),
        ("x.jsonl", '{"user": 1, "item": 2}\n{"user": 1,\n', "x.jsonl:2: malformed JSON"),
        ("x.jsonl", "[1, 2]\n", "x.jsonl:1: got a JSON list, expected an object"),
        ("x.jsonl.gz", b"not gzip at all", "cannot be read"),
        ("x.parquet", b"not parquet at all", "x.parquet: cannot be read"),
        ("x.xlsx", "anything", r"unknown file extension '.xlsx'; expected one of .parquet, .csv"),
    ],
)
def test_errors(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read_one(write(tmp_path / name, content))


def test_errors_of_several_sources(tmp_path):
    csv = write(tmp_path / "a.csv", "user,item\n1,2\n")
    tsv = write(tmp_path / "b.tsv", "user\titem\n1\t2\n")
    other = write(tmp_path / "c.csv", "user,product_id\n1,2\n")
    write(tmp_path / "empty" / "readme.md", "nothing")
    for sources, message in (
        ([], "no source given"),
        ([tmp_path / "none.csv"], "none.csv: no such file or folder"),
        ([csv, tsv], "expected files of one format"),
        ([csv, other], "expected columns user='user', item='item'"),
        ([tmp_path, csv], "expected files, or one folder"),
        ([tmp_path], r"got none, expected exactly one file \*_train.txt"),
        ([tmp_path / "empty"], r"empty: nothing in it can be read, expected \*_train.txt"),
    ):
        with pytest.raises(DataError, match=message):
            read(sources, ColumnNames())


def test_missing_named_column(tmp_path):
    with pytest.raises(DataError, match="no column 'itme'; name it with --item-col"):
        read_one(write(tmp_path / "x.csv", text(",")), item="itme")
