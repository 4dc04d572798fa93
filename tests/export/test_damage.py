"""An export appears whole or not at all, and one that was damaged is refused."""

import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from remi_fast import files
from remi_fast.errors import ConfigError, CorruptFileError, RunFolderError, StorageError
from remi_fast.export import FORMATS, embeddings, encoder, export_run, load_export, writer
from remi_fast.export.manifest import ITEMS, MANIFEST
from tests.reliability.forgery import change_index

ROOT = Path(__file__).parent.parent.parent
FILES = [*FORMATS.values(), ITEMS]


@pytest.fixture
def folder(exported, tmp_path):
    return Path(shutil.copytree(exported("comirec-sa"), tmp_path / "export"))


def flip(path, byte, bit):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_and_said_where(folder, name):
    path = folder / name
    size = path.stat().st_size
    for byte in (0, size // 3, size // 2, size - 1):
        flip(path, byte, byte % 8)
        with pytest.raises(CorruptFileError, match=rf"{name}: got .*sha256.*expected .*sha256"):
            load_export(folder)
        flip(path, byte, byte % 8)
    load_export(folder)


def test_a_flipped_bit_of_the_manifest_is_found(folder):
    path = folder / MANIFEST
    for byte in range(path.stat().st_size):
        flip(path, byte, byte % 8)
        with pytest.raises(CorruptFileError, match=r"manifest\.json: checksum mismatch"):
            load_export(folder)
        flip(path, byte, byte % 8)
    load_export(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_cut_off_file_is_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    for changed in (content[:-1], b"", content + b"0"):
        path.write_bytes(changed)
        with pytest.raises(CorruptFileError, match=rf"{name}: got .*'bytes': {len(changed)},"):
            load_export(folder)
    path.unlink()
    with pytest.raises(CorruptFileError, match=rf"{name}: file is missing, expected .*'bytes'"):
        load_export(folder)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda m: m.update(version=2), RunFolderError, "got .*2.*expected .*1"),
        (
            lambda m: m.update(format="a"),
            RunFolderError,
            "got .*'a'.*exp.*'remi-fast-export'",
        ),
        (lambda m: m.update(files=[]), CorruptFileError, r"got files \[\], expected items.parquet"),
        (lambda m: m["files"].pop(ITEMS), CorruptFileError, "expected items.parquet and others"),
        (lambda m: m["files"].update({"../x": {}}), CorruptFileError, r"lists '\.\./x'"),
        (lambda m: m["files"].update({ITEMS: 1}), CorruptFileError, "items.parquet: got .*exp.* 1"),
        (lambda m: m.update(items=True), CorruptFileError, "got model .* and items True"),
        (lambda m: m.update(items=5), CorruptFileError, "items.parquet: got .* rows .*expected 5"),
        (lambda m: m.update(model=None), CorruptFileError, "got model None"),
        (lambda m: m["model"].update(dim=0), CorruptFileError, "expected num_interests, dim"),
    ],
)
def test_a_manifest_that_lies_is_refused(folder, change, error, message):
    change_index(folder / MANIFEST, change)
    with pytest.raises(error, match=message):
        load_export(folder)


def test_vectors_of_another_width_are_refused(folder):
    change_index(folder / MANIFEST, lambda m: m["model"].update(dim=9))
    with pytest.raises(CorruptFileError, match=r"got float32 of shape \(\d+, 8\), expected .* 9\)"):
        load_export(folder).item_embeddings()


@pytest.mark.parametrize("what", ["nothing", "a folder", "a run"])
def test_what_is_no_export_is_refused(runs, tmp_path, what):
    (tmp_path / "a folder").mkdir()
    path = runs("comirec-sa") if what == "a run" else tmp_path / what
    with pytest.raises(RunFolderError, match=r"got no manifest\.json, expected a folder made by"):
        load_export(path)


def test_other_files_are_left_alone(folder):
    listed = load_export(folder).manifest
    (folder / "README").write_text("of this export")
    assert load_export(folder).manifest == listed and "README" not in listed["files"]
    assert (folder / "README").read_text() == "of this export"


@pytest.mark.parametrize(
    "module, step",
    [
        (embeddings, "save_safetensors"),
        (files, "write_npy"),
        (embeddings, "save_parquet"),
        (embeddings, "save_index"),
        (encoder, "save_program"),
        (encoder, "save_onnx"),
        (encoder, "check_encoder"),
        (writer, "write_manifest"),
    ],
)
def test_an_interrupted_export_leaves_nothing(runs, tmp_path, monkeypatch, module, step):
    done = getattr(module, step)

    def interrupted(*arguments):
        done(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_run(runs("comirec-sa"), tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_is_none_and_the_next_one_clears_it(runs, tmp_path):
    script = (
        "import os, signal; from remi_fast.export import encoder, export_run\n"
        "encoder.save_onnx = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"export_run({str(runs('comirec-sa'))!r}, {str(tmp_path / 'out')!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name.startswith(".out.tmp-") for path in tmp_path.iterdir()] == [True]
    export_run(runs("comirec-sa"), tmp_path / "out", ["npy"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_write_that_fails_is_a_storage_error(runs, folder, tmp_path, format):
    """A limit on the size of files, below that of the format's own, in the place of a full disk."""
    largest = (folder / FORMATS[format]).stat().st_size
    assert largest > 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 100, hard))
    try:
        with pytest.raises(StorageError, match="out.*cannot be written"):
            export_run(runs("comirec-sa"), tmp_path / "out", [format])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_is_never_replaced(runs, tmp_path, kind):
    out = tmp_path / "out"
    out.mkdir() if kind == "folder" else out.write_text("mine")
    with pytest.raises(RunFolderError, match="out: exists already, expected a folder that does"):
        export_run(runs("comirec-sa"), out)
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_a_run_without_weights_is_said_so(runs, tmp_path):
    run = Path(shutil.copytree(runs("dnn"), tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "best")
    with pytest.raises(RunFolderError, match="has no best checkpoint yet"):
        export_run(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_unknown_formats_are_refused(runs, tmp_path):
    for formats, message in (
        (["onx"], "got 'onx', expected some of: .*onnx.*; did you mean onnx"),
        ([], "got none, expected some of"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_run(runs("comirec-sa"), tmp_path / "out", formats)
