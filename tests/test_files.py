"""Writing is whole or not at all; damage is found and its place named."""

import os
from pathlib import Path

import pytest

from remi_fast import files
from remi_fast.errors import CorruptFileError, StorageError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail(path):
    path.write_text("half")
    raise OSError("disk full")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.json"
    files.write_json(file, {"x": 1})
    with pytest.raises(OSError, match="disk full"):
        files.write_file(file, fail)
    assert '"x": 1' in file.read_text() and names(tmp_path) == ["a.json"]


def test_what_cannot_be_written_is_known_before(tmp_path):
    files.check_writable(tmp_path / "a.json")
    assert names(tmp_path) == []
    (tmp_path / "a.json").write_text("1")
    files.check_writable(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == "1" and names(tmp_path) == ["a.json"]
    (tmp_path / "b.json").mkdir()
    for path in (tmp_path / "b.json", tmp_path / "a.json" / "c.json", Path("/proc/x.json")):
        with pytest.raises(StorageError, match=f"{path}: cannot be written"):
            files.check_writable(path)


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    target = tmp_path / "data"
    with files.new_folder(target, replace=True) as folder:
        (folder / "a").write_text("1")
    with (
        pytest.raises(OSError, match="disk full"),
        files.new_folder(target, replace=True) as folder,
    ):
        fail(folder / "a")
    assert (target / "a").read_text() == "1" and names(tmp_path) == ["data"]
    with files.new_folder(target, replace=True) as folder:
        (folder / "b").write_text("2")
    assert names(target) == ["b"] and names(tmp_path) == ["data"]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_between_the_renames_is_undone(tmp_path, monkeypatch, renames):
    target = tmp_path / "last"
    with files.new_folder(target, replace=True) as folder:
        (folder / "a").write_text("1")
    done, replace = [], os.replace

    def killed(source, destination):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(destination)
        replace(source, destination)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        with files.new_folder(target, replace=True) as folder:
            (folder / "a").write_text("2")
    files.recover_folder(target)
    assert (target / "a").read_text() == "1"


def test_what_is_renamed_is_on_the_disk_first(tmp_path, monkeypatch):
    calls = []
    replace = os.replace
    monkeypatch.setattr(files, "fsync_path", lambda path: calls.append(("fsync", path.name)))
    monkeypatch.setattr(
        os, "replace", lambda a, b: (calls.append(("rename", b.name)), replace(a, b))
    )
    files.write_file(tmp_path / "a", lambda path: path.write_text("1"))
    (what, temporary), *rest = calls
    assert what == "fsync" and temporary.startswith(".a.tmp")
    assert rest == [("rename", "a"), ("fsync", tmp_path.name)]
    calls.clear()
    with files.new_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("1")
    order = [what for what, _ in calls]
    assert ("fsync", "x") in calls and order == ["fsync", "fsync", "rename", "fsync"]


def test_verify_names_the_place(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHECKSUM_CHUNK", 10)
    file = tmp_path / "x"
    file.write_bytes(bytes(35))
    good = files.checksums(file)
    files.verify(file, good)
    file.write_bytes(bytes(27) + b"!" + bytes(7))
    with pytest.raises(CorruptFileError, match="at offset 20"):
        files.verify(file, good)
