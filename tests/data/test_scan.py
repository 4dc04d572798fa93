"""A lazy table is what the reader reads, for plain files and for all others."""

import polars as pl
import pytest

from remi_fast.data import readers, scan
from remi_fast.errors import DataError

NAMES = readers.ColumnNames()
PLAIN = {
    "numbers": "user_id,item_id,timestamp\n7,1,5\n-3,9223372036854775807,2\n7,0,9\n",
    "text": "user,item\nanna,x\nbob,y z\nanna,007\n",
    "leading zeros stay text": "user,item\n7,007\n8,7\n",
    "space around, and a mark": "\ufeffuser_id, item_id \n 7 ,a\n8 , b\n",
    "CRLF": "user_id,item_id\r\n7,a\r\n8,b\r\n",
    "other columns": 'user_id,title,item_id,price\n7,"x, y",a,1\n8,z,b,\n',
    "quoted": 'user_id,item_id\n7,"a,b"\n8,"c ""d"""\n',
}
OTHER = {
    "quoted line ends": 'user_id,item_id\n7,"a,b"\n8,"c\nd"\n',
    "quoted lines": 'user_id,item_id\n7,"a\n5,b\n6,c"\n',
    "blank lines": "user_id,item_id\n7,a\n\n8,b\n",
    "dates": "user_id,item_id,time\n7,a,2020-01-02\n8,b,2020-01-03\n",
    "fractions": "user_id,item_id,time\n7,a,0.5\n8,b,1\n",
}
WRONG = {
    "an empty value": "user_id,item_id\n7,a\n8,\n",
    "half a number": "user_id,item_id\n7,1\n8,1.5\n",
    "only a header": "user_id,item_id\n",
    "too few columns": "user_id\n7\n",
    "NUL": "user_id,item_id\n7,a\0b\n",
    "times that are none": "user_id,item_id,time\n7,a,noon\n",
    "ragged": "user_id,item_id\n7,a\n7,a,b,c\n",
    "a field more": "user_id,title,item_id,price\n7,Title, the sequel,a,5\n",
    "an empty field more": "user_id,title,item_id,price\n7,Title, the sequel,a,",
    "a field less": "user_id,title,item_id,price\n7,a,5\n",
}


def written(folder, text):
    (folder / "h.csv").write_bytes(text.encode())
    return folder / "h.csv"


@pytest.mark.parametrize("piece", [1, 9, 10**6])
@pytest.mark.parametrize("name", PLAIN | OTHER)
def test_is_what_the_reader_reads(tmp_path, monkeypatch, name, piece):
    monkeypatch.setattr(scan, "PIECE", piece)
    path = written(tmp_path, (PLAIN | OTHER)[name])
    expected = readers.read([path], NAMES).frame
    if name in PLAIN:
        monkeypatch.setattr(readers, "read", lambda *_: pytest.fail("read as a whole"))
    got = scan.scan(path, NAMES, tmp_path).collect()
    assert got.equals(expected) and got.schema == expected.schema


@pytest.mark.parametrize("name", WRONG)
def test_complains_as_the_reader_does(tmp_path, name):
    path = written(tmp_path, WRONG[name])
    with pytest.raises(DataError) as expected:
        readers.read([path], NAMES)
    with pytest.raises(DataError) as got:
        scan.scan(path, NAMES, tmp_path).collect()
    assert str(got.value) == str(expected.value)


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Int32, pl.UInt8, pl.String, pl.Categorical])
def test_parquet(tmp_path, dtype):
    frame = pl.DataFrame({"item": ["1", "2", "3"], "user": ["4", "5", "4"], "other": 1})
    frame.with_columns(pl.col("item").cast(dtype)).write_parquet(tmp_path / "h.parquet")
    expected = readers.read([tmp_path / "h.parquet"], NAMES).frame
    got = scan.scan(tmp_path / "h.parquet", NAMES, tmp_path).collect()
    assert got.equals(expected) and got.schema == expected.schema


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_nulls_in_parquet(tmp_path, column):
    frame = pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4], "timestamp": [5, 6]})
    frame = frame.with_columns(pl.when(pl.col("user_id") == 1).then(pl.col(column)).alias(column))
    frame.write_parquet(tmp_path / "h.parquet")
    with pytest.raises(DataError, match=f"h.parquet, row [12]: {column} is empty"):
        scan.scan(tmp_path / "h.parquet", NAMES, tmp_path)


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        scan.scan(tmp_path / "none.csv", NAMES, tmp_path)
