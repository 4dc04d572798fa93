"""What an export holds is what the trained model computes."""

import io
import json
import pickletools
import stat
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file

import remi_fast
from remi_fast.errors import ConfigError, ExportError, RunFolderError
from remi_fast.export import FORMATS, encoder, export_run, load_export
from remi_fast.export.manifest import ITEMS, MANIFEST
from tests.export.conftest import MODELS

ROOT = Path(__file__).parent.parent.parent
ENCODERS = ("torch", "onnx")


@pytest.fixture(scope="module")
def folder(exported):
    return exported("comirec-sa")


@pytest.fixture(scope="module")
def recommender(runs):
    return remi_fast.load(runs("comirec-sa"))


@pytest.fixture(scope="module")
def vectors(recommender):
    return recommender.model.rows(0, recommender.model.num_items).numpy()


def histories(model, users):
    """Random ones, the first of length 1, the last full; what lies behind the length is 0."""
    generator = np.random.default_rng(users)
    length = generator.integers(1, model.max_history + 1, users)
    length[0], length[-1] = 1, model.max_history
    if users == 1:
        length[0] = model.max_history
    history = generator.integers(1, model.num_items, (users, model.max_history))
    history[np.arange(model.max_history) >= length[:, None]] = 0
    return history, length


def test_every_file_is_there_and_listed(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {*FORMATS.values(), ITEMS, MANIFEST}
    assert set(json.loads((folder / MANIFEST).read_text())["files"]) == names - {MANIFEST}


def test_other_users_may_read_the_files(folder):
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert len(modes) == 1 and modes.pop() & stat.S_IRUSR


def test_item_vectors_are_the_models_bit_for_bit(folder, vectors):
    safetensors = load_file(folder / FORMATS["safetensors"])
    assert list(safetensors) == ["item_embeddings"]
    npy = np.load(folder / FORMATS["npy"], allow_pickle=False)
    parquet = pl.read_parquet(folder / FORMATS["parquet"])
    assert parquet.schema["vector"] == pl.Array(pl.Float32, vectors.shape[1])
    assert not vectors[0].any() and vectors[1:].any(axis=1).all()
    for got in (safetensors["item_embeddings"], npy, load_export(folder).item_embeddings()):
        assert got.dtype == np.float32 and got.tobytes() == vectors.tobytes()
    assert parquet["vector"].to_numpy().tobytes() == vectors[1:].tobytes()


def test_ids_belong_to_the_vectors(folder, recommender):
    parquet = pl.read_parquet(folder / FORMATS["parquet"])
    items = recommender.item_table
    assert load_export(folder).items.equals(items)
    assert parquet.select("item_id", "index").equals(items.select("item_id", "index"))


@pytest.mark.parametrize("users", [1, 3, 17])
@pytest.mark.parametrize("name", MODELS)
def test_encoders_compute_the_models_interests(exported, runs, name, users):
    model = remi_fast.load(runs(name)).model
    export = load_export(exported(name))
    history, length = histories(model, users)
    want = model.interests(torch.from_numpy(history), torch.from_numpy(length)).numpy()
    program = torch.export.load(export.path / FORMATS["torch"]).module()
    by_torch = program(torch.from_numpy(history), torch.from_numpy(length)).numpy()
    by_onnx = export.user_encoder()(history, length)
    for got in (by_torch, by_onnx):
        assert got.dtype == np.float32
        assert got.shape == (users, export.num_interests, export.dim)
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("name", MODELS)
def test_what_lies_behind_the_length_does_not_count(exported, name):
    export = load_export(exported(name))
    history, length = histories(export, 3)
    changed = np.where(np.arange(export.max_history) < length[:, None], history, 5)
    assert not np.array_equal(changed, history)
    encode = export.user_encoder()
    assert np.array_equal(encode(history, length), encode(changed, length))


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_history_is_all_zeros(exported, name):
    export = load_export(exported(name))
    history = np.zeros((2, export.max_history), np.int64)
    interests = export.user_encoder()(history, np.zeros(2, np.int64))
    assert not interests.any()


def test_the_manifest_describes_the_model(folder, recommender):
    export = load_export(folder)
    model = recommender.model
    assert export.num_items == model.num_items and export.dim == model.dim == 8
    assert (export.num_interests, export.max_history) == (3, 6)
    assert export.manifest["model"]["name"] == export.manifest["run"] == "comirec-sa"
    seen = export.manifest["largest_difference"]
    assert set(seen) == {FORMATS[name] for name in ENCODERS}
    assert all(0 <= value <= 1e-5 for value in seen.values())
    assert {"torch", "onnxruntime", "remi-fast"} <= set(export.manifest["versions"])


def test_models_of_one_vector_say_so(exported):
    assert load_export(exported("dnn")).num_interests == 1


def test_the_same_run_gives_the_same_bits(folder, runs, tmp_path):
    export_run(runs("comirec-sa"), tmp_path / "again")
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_no_pickle_is_in_the_program_nor_read_from_it(folder, monkeypatch):
    with zipfile.ZipFile(folder / FORMATS["torch"]) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for name, data in content.items():
        with pytest.raises((ValueError, IndexError)):
            list(pickletools.genops(data))
        assert not zipfile.is_zipfile(io.BytesIO(data)), name  # as torch.save writes
        assert b'"use_pickle": true' not in data, name

    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(torch, "load", refuse)
    torch.export.load(folder / FORMATS["torch"])


def test_the_program_holds_the_table_and_no_room_for_moments(recommender, tmp_path):
    table = recommender.model.table.weight
    assert table.untyped_storage().nbytes() > table.nbytes, "else this tests nothing"
    program = encoder.export_program(recommender.model)
    weight = program.state_dict["item_embeddings"]
    assert weight.untyped_storage().nbytes() == weight.nbytes == table.nbytes
    assert weight.data_ptr() == table.data_ptr(), "not in memory twice"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.save_program(program, tmp_path / "program.pt2")


def test_no_path_of_this_machine_is_in_an_export(folder):
    for file in folder.iterdir():
        data = file.read_bytes()
        assert str(ROOT).encode() not in data and b"site-packages" not in data, file.name


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF4,Flat"])
def test_the_index_finds_each_item_by_its_own_row(runs, vectors, tmp_path, factory):
    export = export_run(runs("comirec-sa"), tmp_path / "out", ["faiss"], factory)
    assert export.manifest["faiss"] == factory
    index = export.index()
    assert index.ntotal == len(vectors) - 1
    queries = vectors[1:] / np.square(vectors[1:]).sum(axis=1, keepdims=True)
    scores, ids = index.search(queries, 5)
    assert ids.min() >= 1 and ids.max() <= len(vectors) - 1
    found = np.einsum("nkd,nd->nk", vectors[ids], queries)
    assert np.abs(scores - found).max() < 1e-5
    if factory == "Flat":
        exact = np.sort(queries @ vectors[1:].T, axis=1)[:, :-6:-1]
        assert np.abs(scores - exact).max() < 1e-5


@pytest.mark.parametrize("factory", ["Flt", "", "IVF4096,Flat", "PQ7"])
def test_an_index_that_cannot_be_is_refused(runs, tmp_path, factory):
    with pytest.raises(ConfigError, match=rf"--faiss: got '{factory}', expected a factory string"):
        export_run(runs("comirec-sa"), tmp_path / "out", ["faiss"], factory)
    assert list(tmp_path.iterdir()) == []


def test_a_large_table_lies_beside_the_onnx_file(runs, tmp_path, monkeypatch, recommender):
    monkeypatch.setattr(encoder, "MOST_IN_ONNX", 1000)
    export = export_run(runs("comirec-sa"), tmp_path / "out", ["onnx"])
    table = recommender.model.table.weight.numpy().tobytes()
    assert table in (export.path / "user_encoder.onnx.data").read_bytes()
    assert table not in (export.path / "user_encoder.onnx").read_bytes()
    history, length = histories(recommender.model, 3)
    want = recommender.model.interests(torch.from_numpy(history), torch.from_numpy(length))
    assert np.allclose(export.user_encoder()(history, length), want.numpy(), atol=1e-6)


def test_only_the_chosen_formats_are_written(runs, tmp_path):
    export = export_run(runs("comirec-sa"), tmp_path / "out", ["npy"])
    assert {path.name for path in export.path.iterdir()} == {FORMATS["npy"], ITEMS, MANIFEST}
    assert export.has("npy") and not export.has("onnx")
    with pytest.raises(RunFolderError, match=r"without user_encoder\.onnx.*'onnx'"):
        export.user_encoder()


def test_an_encoder_that_computes_something_else_is_refused(runs, tmp_path, monkeypatch):
    forward = encoder.UserEncoder.forward
    monkeypatch.setattr(
        encoder.UserEncoder,
        "forward",
        lambda self, history, length: 1.0001 * forward(self, history, length),
    )
    with pytest.raises(ExportError, match=r"user_encoder\.pt2: got .* differ by 1\.0e-04"):
        export_run(runs("comirec-sa"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_pop_has_no_user_vectors(runs, tmp_path):
    with pytest.raises(RunFolderError, match=r"got model pop, expected one with user vectors"):
        export_run(runs("pop"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "format, module, extra",
    [
        ("onnx", "onnx", "export"),
        ("onnx", "onnxscript", "export"),
        ("onnx", "onnxruntime", "export"),
        ("faiss", "faiss", "faiss"),
    ],
)
def test_a_missing_package_is_advice(runs, tmp_path, monkeypatch, format, module, extra):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    advice = rf"{format}.*{module}.*pip install 'remi-fast\[{extra}\]'.*--formats"
    with pytest.raises(ConfigError, match=advice):
        export_run(runs("comirec-sa"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    others = [name for name in FORMATS if name != format]
    export_run(runs("comirec-sa"), tmp_path / "out", others)


def test_reading_needs_no_torch(folder):
    script = (
        "import sys; from remi_fast.export import load_export; import numpy as np\n"
        f"export = load_export({str(folder)!r}); export.item_embeddings(); export.items\n"
        "export.user_encoder()(np.ones((2, 6), np.int64), np.array([1, 6])); export.index()\n"
        "print(sorted({'torch', 'triton', 'onnx', 'onnxscript'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"
