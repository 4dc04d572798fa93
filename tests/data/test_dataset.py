"""A dataset folder that was damaged, or is not one, is refused with the file named."""

import shutil

import numpy as np
import pytest

from remi_fast import files
from remi_fast.data.dataset import ARRAYS, TABLES, Dataset
from remi_fast.errors import CorruptFileError, DataError


@pytest.fixture
def folder(dataset, tmp_path):
    shutil.copytree(dataset.path, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("name", [*ARRAYS, *TABLES])
def test_flipped_bytes_truncation_and_loss(folder, name):
    file = folder / name
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for content, message in (
        (bytes(flipped), "checksum mismatch in the 4 MiB at offset 0: got"),
        (whole[:-1], rf"got {len(whole) - 1} bytes, expected {len(whole)}"),
        (None, "missing"),
    ):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(CorruptFileError, match=rf"{name}.*{message}"):
            Dataset.open(folder)


def change_manifest(folder, change):
    manifest = files.read_checked_json(folder / "manifest.json")
    del manifest["crc32"]
    change(manifest)
    files.write_checked_json(folder / "manifest.json", manifest)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda m: m.update(version=2), DataError, "got format .* version 2, expected"),
        (lambda m: m.update(format="other"), DataError, "got format 'other'"),
        (lambda m: m.pop("format"), DataError, "got format None"),
        (
            lambda m: m["files"].pop("items.npy"),
            CorruptFileError,
            "lists the files .*, expected .*items.npy",
        ),
        (lambda m: m.pop("files"), CorruptFileError, "'files' is missing"),
        (lambda m: m.update(files=[*ARRAYS, *TABLES]), CorruptFileError, "got files .*an object"),
        (lambda m: m["counts"].update(users=-1), CorruptFileError, "whole numbers"),
        (lambda m: m["counts"].update(items=3), CorruptFileError, "expected 1..3"),
        (lambda m: m["counts"].update(interactions=7), CorruptFileError, "expected 7"),
    ],
)
def test_manifest(folder, change, error, message):
    change_manifest(folder, change)
    with pytest.raises(error, match=message):
        Dataset.open(folder)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("items.npy", lambda a: a * 0, r"items.npy: got indices 0..0"),
        ("items.npy", lambda a: a.astype(np.int64), "items.npy: got int64"),
        ("offsets.npy", lambda a: a[::-1].copy(), "expected ascending offsets"),
        ("train_spans.npy", lambda a: a + 10**6, r"train_spans.npy: row 0 is"),
        ("train_spans.npy", lambda a: a + np.outer(np.arange(len(a)) == 3, [0, 1]), "row 3 is"),
        ("test_spans.npy", lambda a: a[:, ::-1].copy(), r"test_spans.npy: row 0 is"),
        ("valid_users.npy", lambda a: a + 10**6, r"valid_users.npy: got 10000"),
    ],
)
def test_arrays_that_point_outside(folder, name, change, message):
    """Also where the checksums are right: no reader needs to look again."""
    np.save(folder / name, change(np.load(folder / name)))
    change_manifest(folder, lambda m: m["files"].update({name: files.checksums(folder / name)}))
    with pytest.raises(CorruptFileError, match=message):
        Dataset.open(folder)


def test_not_a_dataset(tmp_path):
    with pytest.raises(DataError, match="not a prepared dataset"):
        Dataset.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CorruptFileError, match="manifest.json: checksum mismatch"):
        Dataset.open(tmp_path)


def test_unknown_split(dataset):
    with pytest.raises(ValueError, match="unknown split 'train'"):
        dataset.eval_split("train")
