"""`remi-fast export` as its user sees it."""

import json
from importlib.metadata import PackageNotFoundError, version

import pytest

from remi_fast.cli import main
from remi_fast.export import FORMATS, export_run, load_export, writer


def test_it_says_what_it_wrote(runs, tmp_path, capsys):
    assert main(["export", str(runs("dnn")), "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(name in out for name in FORMATS.values())
    assert "dnn, 96 items, 1 interests of 8 dimensions" in out


def test_its_json_is_the_manifest(runs, tmp_path, capsys):
    words = ["--formats", "npy", "torch", "--json"]
    assert main(["export", str(runs("dnn")), "--out", str(tmp_path / "out"), *words]) == 0
    assert json.loads(capsys.readouterr().out) == load_export(tmp_path / "out").manifest


def test_a_format_of_a_missing_package_is_advice(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert main(["export", str(runs("dnn")), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "pip install 'remi-fast[export]'" in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_faiss_is_of_the_extra_faiss(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    assert main(["export", str(runs("dnn")), "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'remi-fast[faiss]'" in capsys.readouterr().err


def test_the_version_of_faiss_is_that_of_either_package(runs, tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss")

    def version_of(package):
        if package.startswith("faiss"):
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(writer, "version", version_of)
    versions = export_run(runs("dnn"), tmp_path / "out", ["faiss"]).manifest["versions"]
    assert versions["faiss"] == faiss.__version__ and versions["torch"] == version("torch")


@pytest.mark.parametrize("words", ["--formats onx", "--formats", "--format npy"])
def test_a_typo_is_a_usage_error(runs, tmp_path, words):
    assert main(["export", str(runs("dnn")), "--out", str(tmp_path / "out"), *words.split()]) == 2
    assert list(tmp_path.iterdir()) == []
