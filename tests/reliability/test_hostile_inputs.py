"""Hostile configurations, tables and raw files: no code, a typed error, little memory.

SECURITY.md says what polars does not bound: the size that a Parquet file unpacks to.
"""

import gzip
import signal
import struct

import numpy as np
import polars as pl
import pytest

from remi_fast.config import Config
from remi_fast.data.dataset import Dataset
from remi_fast.training.run_folder import RunFolder

from .forgery import change_index, forge

# --- YAML --------------------------------------------------------------------------------------


def laughs(generations, width=9):
    """Anchors of which each holds the one before `width` times."""
    lines = [f"a0: &a0 [{', '.join('x' * width)}]"]
    for n in range(1, generations):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]")
    return "\n".join(lines) + "\n"


APPLY = "!!python/object/apply:os.system ['touch MARKER']"
CONFIGS = {
    "apply": f"loss: {{beta: {APPLY}}}",
    "apply at the top": APPLY,
    "new": "!!python/object/new:os.system ['touch MARKER']",
    "a module": "loss: {beta: !!python/module:os}",
    "a name": "loss: !!python/name:os.system",
    "a tag of ours": "loss: !mine {beta: 1}",
    "a set": "train: !!set {steps}",
    "class_path": "loss: {class_path: os.system, init_args: {command: touch MARKER}}",
    "class_path alone": "loss:\n  class_path: os.system\n",
    "laughs": laughs(9),
    "laughs, many": laughs(100),
    "laughs in a value": laughs(9) + "loss: {beta: *a8}\n",
    "an anchor in itself": "loss: &a {beta: *a}",
    "an anchor": "loss: &a {beta: 2}",
    "an alias": "loss: {beta: &b 2, rr_lambda: *b}",
    "merged": "loss: &a {beta: 2}\ntrain: {<<: *a}",
    "merged in place": "loss: {<<: {beta: 2}}",
    "nested lists": "loss: " + "[" * 30_000,
    "nested mappings": "loss: " + "{a: " * 10_000,
    "nested blocks": "\n".join(" " * n + "a:" for n in range(300)),
    "nested sequences": "- " * 30_000,
    "nested keys": "? " * 30_000,
    "one long scalar": "model: {name: " + "x" * 10_000_000 + "}",
    "one long number": "loss: {beta: " + "9" * 10_000_000 + "}",
    "a long number": "train: {steps: " + "9" * 60_000 + "}",
    "a long float": "loss: {beta: 1" + "0" * 60_000 + ".5}",
    "base 60": "train: {steps: " + ":".join(["59"] * 20_000) + "}",
    "another file": "model: other.yaml",
    "a config in a config": "config: other.yaml",
    "the output": "out: /tmp",
    "an address": "loss: http://127.0.0.1/x.yaml",
    "a key twice": "loss: {beta: 1, beta: 2}",
    "a section twice": "loss: {beta: 1}\nloss: {beta: 2}",
    "a dotted key and more": "loss.beta.x: 1",
    "documents": "--- {loss: {beta: 1}}\n--- {loss: {beta: 2}}",
    "a directive": "%YAML 9.9\n--- {loss: {beta: x}}",
    "a list as a key": "? [a, b]\n: 1",
    "a mapping as a key": "? {a: 1}\n: 1",
    "a private name": "loss: {__class__: 1}",
    "NUL": "loss: {beta: 1\0}",
    "no YAML": "loss: {beta: ",
    "a list": "[1, 2]",
    "a scalar": "x",
    "nothing": "",
    "only comments": "# x\n",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(refuse, tmp_path, name):
    text = CONFIGS[name].replace("MARKER", str(tmp_path / "marker"))
    (tmp_path / "other.yaml").write_text("loss: {beta: 2}")
    (tmp_path / "c.yaml").write_text(text)
    message = refuse("config", tmp_path / "c.yaml")
    assert len(message) < 2_000


@pytest.mark.parametrize(
    "text, message",
    [
        ("loss: {beta: 2}\n" + "# x\n" * 20_000, "got 80016 bytes, expected at most 65536"),
        ("outt: /tmp", "got the key 'outt', expected one of: model, loss, optim, train"),
        ("model: other.yaml", "model: got 'other.yaml', expected a mapping"),
    ],
)
def test_what_is_wrong_with_a_configuration(refuse, tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    assert message in refuse("config", tmp_path / "c.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80abc", b"loss: {beta: \xff}"])
def test_configurations_that_are_no_text(refuse, tmp_path, content):
    (tmp_path / "c.yaml").write_bytes(content)
    assert "c.yaml: cannot be read" in refuse("config", tmp_path / "c.yaml")


def test_a_configuration_that_is_a_folder(refuse, tmp_path):
    assert "no such file" in refuse("config", tmp_path)


# --- Parquet -----------------------------------------------------------------------------------


def parquet(path, columns):
    pl.DataFrame(columns).write_parquet(path)
    return path.read_bytes()


def item_table(items, **changes):
    index = np.arange(1, items + 1, dtype=np.int32)
    return {"item_id": index.astype(np.int64), "index": index, "count": [1] * items} | changes


@pytest.mark.parametrize(
    "change",
    [
        lambda n: {
            "item_id": np.zeros(10_000_000, np.int64),
            "index": np.zeros(10_000_000, np.int32),
            "count": np.zeros(10_000_000, np.int64),
        },
        lambda n: item_table(n, item_id=[[1]] * n),
        lambda n: item_table(n, item_id=[{"a": 1}] * n),
        lambda n: item_table(n, item_id=[b"a"] * n),
        lambda n: item_table(n, item_id=np.ones(n)),
        lambda n: item_table(n, index=np.arange(n, dtype=np.int32)),
        lambda n: item_table(n, index=np.arange(n)),
        lambda n: item_table(n, index=[None] * n),
        lambda n: item_table(n, count=[[1]] * n),
        lambda n: item_table(n, more=[1] * n),
        lambda n: item_table(n - 1),
        lambda n: {"index": [1] * n},
        lambda n: {},
    ],
)
def test_item_tables(refuse, folder, tmp_path, change):
    items = Dataset.open(folder).num_items - 1
    forge(folder / "items.parquet", parquet(tmp_path / "x", change(items)))
    assert "items.parquet" in refuse("dataset", folder)


def with_footer(content, length):
    return content[:-8] + struct.pack("<I", length) + b"PAR1"


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: b"PAR1",
        lambda content: b"PAR1" * 2,
        lambda content: content[:-1],
        lambda content: content[len(content) // 2 :],
        lambda content: with_footer(content, 0),
        lambda content: with_footer(content, 2**32 - 1),
        lambda content: with_footer(content, len(content)),
        lambda content: b"PAR1" + bytes(1000) + with_footer(bytes(8), 1000),
        lambda content: b"PAR1" + b"\xff" * 1000 + with_footer(bytes(8), 1000),
    ],
)
def test_files_that_are_no_parquet(refuse, folder, tmp_path, change):
    content = (folder / "items.parquet").read_bytes()
    raw = tmp_path / "raw.parquet"
    raw.write_bytes(change(content))
    assert "raw.parquet: " in refuse("raw", raw)
    forge(folder / "items.parquet", change(content))
    assert "items.parquet: not a table" in refuse("dataset", folder)


def lies(good, count):
    """A Parquet file with a few bytes changed, most of them in what describes the rest."""
    generator = np.random.default_rng(5)
    footer = len(good) - 8 - struct.unpack("<I", good[-8:-4])[0]
    for number in range(count):
        lie = bytearray(good)
        for place in generator.integers(footer if number % 2 else 0, len(good), 2):
            lie[place] = generator.choice([0, 127, 128, 255, generator.integers(256)])
        if number % 3 == 0:  # the largest number that a header can hold
            place = generator.integers(footer, len(good) - 17)
            lie[place : place + 9] = b"\xff" * 8 + b"\x7f"
        yield bytes(lie)


def read_or_refused(answers, expected):
    """With little memory. One in a hundred may end the process: polars asks for 2^61 bytes, and
    does not survive the refusal."""
    aborted = [a for a in answers if a["message"] == f"status {-signal.SIGABRT}"]
    assert len(aborted) <= len(answers) / 100
    for answer in answers:
        assert answer["error"] in expected or answer in aborted, answer
        assert answer["growth"] <= 64 << 20, answer


@pytest.mark.parametrize("compression", ["uncompressed", "zstd", "snappy"])
def test_raw_parquet_that_lies_is_read_or_refused(opener, tmp_path, compression, at_scale):
    file = tmp_path / "raw.parquet"
    ids = np.arange(200)
    columns = {"user_id": ids // 10, "item_id": [f"i{i % 17}" for i in ids], "timestamp": ids}
    pl.DataFrame(columns).write_parquet(file, compression=compression)
    answers = []
    for lie in lies(file.read_bytes(), at_scale(40, 3_000)):
        file.write_bytes(lie)
        answers.append(opener("raw", file))
    read_or_refused(answers, {None, "DataError"})


def test_item_tables_that_lie_are_read_or_refused(opener, folder, at_scale):
    file = folder / "items.parquet"
    answers = []
    for lie in lies(file.read_bytes(), at_scale(100, 3_000)):
        forge(file, lie)
        answers.append(opener("dataset", folder))
    read_or_refused(answers, {None, "CorruptFileError"})


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
@pytest.mark.parametrize("value", [[1], {"a": 1}, b"a", True, [[[[1]]]]])
def test_raw_columns_of_other_types(refuse, tmp_path, column, value):
    columns = {"user_id": [1, 2], "item_id": [1, 2], "timestamp": [1, 2]} | {column: [value] * 2}
    parquet(tmp_path / "raw.parquet", columns)
    assert f"row 1: {column} is of type" in refuse("raw", tmp_path / "raw.parquet")


def test_raw_columns_of_python_objects_cannot_be_written():
    """Parquet has no place for them, so that none can be read."""
    with pytest.raises(pl.exceptions.PolarsError):
        pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)}).write_parquet("/dev/null")


# --- gzip and JSON lines -----------------------------------------------------------------------

LINE = b'{"user_id": 1, "item_id": 2}\n'


@pytest.mark.parametrize(
    "parts",
    [
        [b" " * (50 << 20)],
        [LINE, b" " * (50 << 20)],
        [LINE, b"\n" * (50 << 20)],
        [LINE * 200, LINE[:-2] + b', "x": "' + b"x" * (50 << 20) + b'"}\n'],
    ],
)
def test_gzip_that_unpacks_without_bound(refuse, tmp_path, parts):
    file = tmp_path / "raw.jsonl.gz"
    with gzip.open(file, "wb", compresslevel=9) as packed:
        for part in parts:
            packed.write(part)
    assert file.stat().st_size < 1 << 20
    assert "raw.jsonl.gz: unpacks to more than 200 times" in refuse("raw", file)


@pytest.mark.parametrize(
    "line",
    [
        b'{"user_id": ' + b"[" * 100_000 + b"]" * 100_000 + b', "item_id": 1}\n',
        b'{"user_id": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b', "item_id": 1}\n',
        b'{"user_id": ' + b"9" * 100_000 + b', "item_id": 1}\n',
        b'{"user_id": 1e999, "item_id": 1}\n',
        b'{"user_id": NaN, "item_id": 1}\n',
        b'{"user_id": 1',
    ],
)
@pytest.mark.parametrize("before", [1, 200])  # lines: the first hundred are read for their keys
@pytest.mark.parametrize("name", ["raw.jsonl", "raw.jsonl.gz"])
def test_lines_of_json(refuse, tmp_path, line, before, name):
    content = LINE * before + line
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert f"{name}" in refuse("raw", tmp_path / name)


# --- run folders -------------------------------------------------------------------------------


@pytest.fixture
def run(dataset, tmp_path):
    with RunFolder.create(tmp_path / "run", Config()) as new:
        new.record_data(dataset)
    return RunFolder.open(tmp_path / "run")


def test_the_opener_opens_a_run_that_is_not_hostile(opener, run):
    assert opener("run", run.path)["error"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"path": None},
        {"path": ["/"]},
        {"checksum": 0},
        {"items": "1"},
        {"items": True},
        {"files": []},
        {"files": {}},
        {"files": {"config.yaml": None}},
        {"files": {"config.yaml": {"bytes": 1, "crc32_per_4MiB": [1]}}},
    ],
)
def test_records_of_the_data(refuse, run, change):
    change_index(run.data_file, lambda record: record.update(change))
    assert str(run.path) in refuse("run", run.path)


def test_a_hostile_configuration_of_a_run(refuse, run, tmp_path):
    run.config_file.write_text(
        f"loss: {{beta: {APPLY}}}".replace("MARKER", str(tmp_path / "marker"))
    )
    assert "config.yaml: got" in refuse("run", run.path)
    run.record_data(Dataset.open(run.data()[0]))
    assert "config.yaml:1: got a YAML anchor, alias, tag" in refuse("run", run.path)
