"""Files made to do harm: no code is run, the error is a typed one, and memory stays small.

Whoever makes such a file can also make its checksums right: they are, here.
"""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from remi_fast import files
from remi_fast.config import Config, LossConfig
from remi_fast.models.recommender import make_model
from remi_fast.training import checkpoint
from remi_fast.training.step import TrainingStep

from .forgery import change_index, forge
from .opener import ITEMS, MODEL


class Command:
    """Runs a command where it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of weights and one of a training state that the opener takes."""
    path = tmp_path_factory.mktemp("saved")
    config = Config(model=MODEL, loss=LossConfig(num_negatives=4))
    step = TrainingStep(make_model(MODEL, ITEMS, seed=1), config)
    ids = torch.arange(1, 17).view(4, 4)
    for number in range(3):
        step(number, ids[:, 1:], torch.full((4,), 3), ids[:, 0])
    checkpoint.save_weights(path / "weights", step.model, {"step": 3})
    checkpoint.save_training_state(path / "state", step, {"step": 3})
    return path


@pytest.fixture
def weights(saved, tmp_path):
    return Path(shutil.copytree(saved / "weights", tmp_path / "weights"))


@pytest.fixture
def state(saved, tmp_path):
    return Path(shutil.copytree(saved / "state", tmp_path / "state"))


def checked(body):
    """A JSON file with this text before its checksum."""
    return body + files._json_end(files.zlib.crc32(body))


def test_the_opener_opens_what_is_not_hostile(opener, folder, weights, state):
    for what, path in (("dataset", folder), ("weights", weights), ("state", state)):
        assert opener(what, path)["error"] is None


# --- .npy --------------------------------------------------------------------------------------


def npy(header, data=b"", version=(1, 0), length=None):
    size = struct.pack(
        "<H" if version == (1, 0) else "<I", len(header) if length is None else length
    )
    return b"\x93NUMPY" + bytes(version) + size + header + data


def described(descr="'<i4'", order="False", shape="(ROWS,)"):
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    return text.encode().ljust(128 - 11) + b"\n"


HEADERS = {
    "huge": described(shape=f"({2**62},)"),
    "overflowing": described(shape=f"({2**40}, {2**40})"),
    "beyond int64": described(shape=f"({2**70},)"),
    "no data": described(shape="(1000000000,)"),
    "negative": described(shape="(-4,)"),
    "negative twice": described(shape="(-2, -2)"),
    "a scalar": described(shape="()"),
    "floating": described(shape="(4.0,)"),
    "boolean": described(shape="(True,)"),
    "text": described(shape="('4',)"),
    "many dimensions": described(shape="(" + "1," * 40 + ")"),
    "objects": described(descr="'|O'"),
    "other bytes": described(descr="'>i4'"),
    "records": described(descr="[('a', '<i4')]"),
    "arrays in arrays": described(descr="('<i4', (1000000000,))"),
    "void": described(descr="'|V4'"),
    "a date": described(descr="'<M8[s]'"),
    "no dtype": described(descr="'<i3'"),
    "more keys": described(shape="(ROWS,), 'x': 1"),
    "a call": described(shape="(__import__('os').system('touch MARKER'),)"),
    "a lambda": described(shape="(lambda: 4)()"),
    "a generator": described(shape="tuple(x for x in (4,))"),
    "not a dict": b"[1, 2, 3]\n",
    "parentheses": b"(" * 9000 + b")" * 9000 + b"\n",
    "signs": b"-" * 9000 + b"1\n",
    "an open string": b"{'descr': '<i4\n",
    "NUL": b"\0" * 118,
    "not ASCII": "{'descr': 'ä'}\n".encode("latin1"),
    "a power": described(shape="(9**9**9,)"),
    "odd place of the data": described()[:-8] + b"\n",
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_headers_of_npy(refuse, folder, name, version, tmp_path):
    """Nothing but the header is wrong."""
    items = np.load(folder / "items.npy")
    header = HEADERS[name].replace(b"MARKER", str(tmp_path / "marker").encode())
    header = header.replace(b"ROWS", str(len(items)).encode())
    forge(folder / "items.npy", npy(header, items.tobytes(), version))
    assert "items.npy" in refuse("dataset", folder)


def npz():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("items.npy", npy(described(), bytes(16)))
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy(b"", version=(4, 0)),
        npy(described(), length=65535),
        npy(described(), version=(2, 0), length=2**32 - 1),
        npz(),
    ],
)
def test_files_that_are_no_npy(refuse, folder, content):
    forge(folder / "items.npy", content)
    assert "items.npy: not a .npy array" in refuse("dataset", folder)


@pytest.mark.parametrize("form", ["objects in .npy", "pickle"])
def test_pickles_are_not_read(refuse, folder, form, tmp_path):
    command = Command(f"touch {tmp_path / 'marker'}")
    if form == "pickle":
        content = pickle.dumps(command)
    else:
        file = io.BytesIO()
        np.save(file, np.array([command], dtype=object), allow_pickle=True)
        content = file.getvalue()
        pickle.loads(content[128:])  # it is a live one
        (tmp_path / "marker").unlink()
    forge(folder / "items.npy", content)
    assert "items.npy: not a .npy array" in refuse("dataset", folder)


def test_columns_in_the_order_of_fortran(refuse, folder):
    spans = np.load(folder / "train_spans.npy")
    content = io.BytesIO()
    np.save(content, np.asfortranarray(spans))
    forge(folder / "train_spans.npy", content.getvalue())
    assert "train_spans.npy: expected an aligned array in C order" in refuse("dataset", folder)


# --- safetensors -------------------------------------------------------------------------------


def tensor(shape, begin=0, end=None, dtype="F32"):
    end = begin + 4 * int(np.prod(shape)) if end is None else end
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


W = "table.weight"
ROW = tensor([1, 4])
SAFETENSORS = {
    "empty": b"",
    "a length only": struct.pack("<Q", 0),
    "header of 2^63": safetensors({}, length=2**63),
    "header of 2^64 - 1": safetensors({}, length=2**64 - 1),
    "header beyond the file": safetensors({}, length=1000),
    "header of 99 MB": safetensors({}, length=99_000_000),
    "no JSON": safetensors(b"{'a': 1}"),
    "no UTF-8": safetensors(b'{"\xff": 1}'),
    "nested": safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a list": safetensors([]),
    "NaN": safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}}'),
    "negative": safetensors({W: tensor([-1, 4], end=16)}, bytes(16)),
    "floating": safetensors({W: tensor([1.0, 4], end=16)}, bytes(16)),
    "beyond int64": safetensors({W: tensor([2**70], end=0)}),
    "overflowing": safetensors({W: tensor([2**32, 2**32], end=0)}),
    "overflowing to the right size": safetensors({W: tensor([2**62 + 1, 4], end=16)}, bytes(16)),
    "no data": safetensors({W: tensor([10**9, 4], end=16 * 10**9)}),
    "nothing, many times": safetensors({W: tensor([2**62, 0], end=0)}),
    "many dimensions": safetensors({W: tensor([1] * 10_000)}, bytes(4)),
    "out of range": safetensors({W: tensor([1, 4], begin=2**40)}, bytes(16)),
    "reversed": safetensors({W: tensor([1, 4], begin=16, end=0)}, bytes(16)),
    "overlapping": safetensors({W: ROW, "b": ROW}, bytes(16)),
    "with a hole": safetensors({W: tensor([1, 4], begin=16)}, bytes(32)),
    "data left over": safetensors({W: ROW}, bytes(32)),
    "twice": safetensors(
        f'{{"{W}":{json.dumps(ROW)},"{W}":{json.dumps(ROW)}}}'.encode(), bytes(16)
    ),
    "no dtype": safetensors({W: tensor([1, 4], dtype="X9")}, bytes(16)),
    "metadata": safetensors({"__metadata__": {"format": 1}, W: ROW}, bytes(16)),
    "only metadata": safetensors({"__metadata__": {"format": "pt"}}),
    "of another model": safetensors({W: ROW}, bytes(16)),
    "a path": safetensors({"../../etc/passwd": ROW}, bytes(16)),
    "no name": safetensors({"": ROW}, bytes(16)),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors(refuse, weights, name):
    forge(weights / "model.safetensors", SAFETENSORS[name])
    assert str(weights) in refuse("weights", weights)


DTYPES = [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.complex64]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int32, torch.int64, torch.uint64, torch.bool])
def test_tensors_of_other_dtypes(refuse, weights, dtype):
    tensors = load_file(weights / "model.safetensors")
    forge(weights / "model.safetensors", save(tensors | {W: tensors[W].to(dtype)}))
    assert "of another model" in refuse("weights", weights)


def pieces_of(weights, names):
    """The file with table.weight under other names, of so many rows each."""
    tensors = load_file(weights / "model.safetensors")
    table = tensors.pop(W)
    return save(tensors | {name: table[:rows].clone() for name, rows in names.items()})


@pytest.mark.parametrize(
    "names",
    [
        {f"{W}[0:999999999999]": 20},
        {f"{W}[0:{'9' * 5000}]": 20},
        {f"{W}[5:25]": 20},
        {f"{W}[5:20]": 20},
        {f"{W}[20:0]": 20},
        {f"{W}[0:20]": 1},
        {f"{W}[0:19]": 1, f"{W}[19:20]": 19},
        {f"{W}[0:10]": 10, f"{W}[9:20]": 11},
        {f"{W}[0:10]": 10, f"{W}[11:21]": 10},
        {W: 20, f"{W}[0:20]": 20},
        {W: 10, f"{W}[10:20]": 10},
        {W: 0, f"{W}[0:20]": 20},
    ],
)
def test_pieces_that_do_not_follow_one_another(refuse, weights, names):
    forge(weights / "model.safetensors", pieces_of(weights, names))
    message = refuse("weights", weights)
    assert "pieces that follow" in message or "of another model" in message


def test_pieces_that_do(opener, weights):
    names = {f"{W}[0:8]": 8, f"{W}[8:20]": 12}
    forge(weights / "model.safetensors", pieces_of(weights, names))
    assert opener("weights", weights)["error"] is None


# --- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000,
        b'{"a": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a": ' + b"9" * 100_000,
        b'{"a": "\xff"',
        b'{"a": "\\ud800',
        b'{"a": ',
        b"[1",
        b"",
    ],
)
def test_json_with_a_right_checksum(refuse, tmp_path, body):
    (tmp_path / "x.json").write_bytes(checked(body))
    assert "x.json: not valid JSON" in refuse("json", tmp_path / "x.json")


def test_json_of_many_megabytes_is_not_read(refuse, tmp_path):
    (tmp_path / "x.json").write_bytes(checked(b'{"a": 1' + b" " * (17 << 20)))
    assert "expected at most 16777216" in refuse("json", tmp_path / "x.json")


@pytest.mark.parametrize(
    "key, value",
    [
        ("counts", None),
        ("counts", {"users": 1}),
        ("counts", {"users": 2**31, "items": 1, "interactions": 1}),
        ("counts", {"users": -1, "items": 1, "interactions": 1}),
        ("counts", {"users": True, "items": 1, "interactions": 1}),
        ("counts", {"users": 1e308, "items": 1, "interactions": 1}),
        ("counts", {"users": float("nan"), "items": 1, "interactions": 1}),
        ("counts", {"users": 10, "items": 10, "interactions": 2**70}),
        ("version", "1"),
        ("format", ["remi-fast-dataset"]),
        ("files", None),
        ("files", 1),
        ("files", ["items.npy"]),
        ("files", {"../../etc/passwd": {}}),
        ("files", {"/etc/passwd": {}}),
    ],
)
def test_manifests(refuse, folder, key, value):
    change_index(folder / "manifest.json", lambda manifest: manifest.update({key: value}))
    assert str(folder) in refuse("dataset", folder)


def test_counts_that_are_no_whole_numbers(refuse, folder):
    def change(manifest):
        manifest["counts"] |= {name: float(manifest["counts"][name]) for name in ("users", "items")}

    change_index(folder / "manifest.json", change)
    assert "manifest.json: got counts" in refuse("dataset", folder)


LISTED = [
    None,
    {"bytes": "5", "crc32_per_4MiB": []},
    {"bytes": -1, "crc32_per_4MiB": []},
    {"bytes": 2**70, "crc32_per_4MiB": []},
    {"bytes": 5, "crc32_per_4MiB": "00"},
    {"bytes": 5, "crc32_per_4MiB": [[]] * 1000},
]


@pytest.mark.parametrize("value", LISTED)
def test_lists_of_checksums(refuse, folder, value):
    change_index(folder / "manifest.json", lambda m: m["files"].update({"items.npy": value}))
    assert "items.npy" in refuse("dataset", folder)


@pytest.mark.parametrize("name", ["../{}", "../../etc/passwd", "/etc/passwd", "a/../{}", "..", ""])
def test_names_that_lead_out_of_the_folder(refuse, weights, name):
    name = name.format("model.safetensors")
    shutil.copy(weights / "model.safetensors", weights.parent)

    def change(value):
        value["files"][name] = value["files"].pop("model.safetensors")

    change_index(weights / "state.json", change)
    (weights / "model.safetensors").unlink()
    message = refuse("weights", weights)
    assert f"lists {name!r}" in message or "is missing" in message


@pytest.mark.parametrize("key", ["items.npy", "manifest.json"])
@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "itself", "pipe", "folder"])
def test_what_is_not_a_file_of_the_folder(refuse, folder, key, target):
    path = folder / key
    path.unlink()
    if target == "pipe":
        os.mkfifo(path)
    elif target == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if target == "itself" else target)
    assert key in refuse("dataset", folder)


@pytest.mark.parametrize(
    "change",
    [
        {"step": 2**31 - 2},
        {"step": 1001, "lr_runs": [[1, 0.1]]},
        {"step": -1},
        {"step": "3"},
        {"step": True},
        {"lr_runs": [[-(10**12), 0.1]]},
        {"lr_runs": [[1, 0.1], [1, 0.2]]},
        {"lr_runs": [[2, 0.1]]},
        {"lr_runs": [[1, 0.1], [4, 0.1]]},
        {"lr_runs": [[1, float("nan")]]},
        {"lr_runs": [[1, "x"]]},
        {"lr_runs": [1]},
        {"lr_runs": None},
        {"lr": float("inf")},
        {"lr": None},
        {"betas": None},
        {"betas": [0.5, 0.5]},
        {"eps": "x"},
        {"exp_avg": 1, "betas": 2},
    ],
)
def test_numbers_of_the_optimizer(refuse, state, change):
    change_index(state / "state.json", lambda value: value["table_optimizer"].update(change))
    assert str(state) in refuse("state", state)


STATES = [
    (key, value)
    for key in ("table_optimizer", "progress", "files", "format")
    for value in (None, [], "x", 1, {})
    if (key, value) != ("progress", {})  # that is up to the caller
]


@pytest.mark.parametrize("key, value", STATES)
def test_states(refuse, state, key, value):
    change_index(state / "state.json", lambda record: record.update({key: value}))
    assert str(state) in refuse("state", state)
