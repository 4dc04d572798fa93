"""Writing an export: every file into a new folder, the encoders checked, the manifest last."""

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from remi_fast import files
from remi_fast.config import ModelConfig
from remi_fast.data.dataset import read_table
from remi_fast.errors import ConfigError, RunFolderError, nearest
from remi_fast.export import embeddings, encoder
from remi_fast.export.manifest import FORMATS, ITEMS, write_manifest
from remi_fast.export.reader import onnx_encoder
from remi_fast.extras import load
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.retrieval.faiss_index import build, load_faiss
from remi_fast.training.run_folder import RunFolder
from remi_fast.training.trainer import load_model, set_threads

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime")}  # to be written; of faiss, `load_faiss`
DEFAULT_FACTORY = "Flat"  # of the faiss index: exact


def write_export(run: Path, out: Path, formats: Sequence[str], faiss_factory: str | None) -> None:
    """See `remi_fast.export.export_run`."""
    _check(out, formats, faiss_factory)
    folder = RunFolder.open(run)
    config = folder.config()
    if config.model.name == "pop":
        raise RunFolderError(
            f"{run}: got model pop, expected one with user vectors; what pop recommends is "
            f"{folder.items_file} by falling count"
        )
    items_file, items = folder.items()
    set_threads(config.train.threads)
    model = load_model(folder, config, items + 1)
    with files.new_folder(out) as new:
        shutil.copyfile(items_file, new / ITEMS)
        content = {
            "run": run.resolve().name,
            "data": folder.data()[1],
            "model": _described(config.model, model),
            "items": items,
            "versions": _versions(formats),
            **_write_items(new, model, formats, faiss_factory),
            "largest_difference": _write_encoders(new, model, formats),
        }
        write_manifest(new, content)


def _check(out: Path, formats: Sequence[str], faiss_factory: str | None) -> None:
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(
                f"--formats: got {name!r}, expected some of: {', '.join(FORMATS)}"
                + nearest(name, FORMATS)
            )
        _require(name)
    if not formats:
        raise ConfigError(f"--formats: got none, expected some of: {', '.join(FORMATS)}")
    if faiss_factory is not None and "faiss" not in formats:
        raise ConfigError(f"--faiss: got {faiss_factory!r}, expected 'faiss' among --formats")
    if out.exists():
        raise RunFolderError(f"{out}: exists already, expected a folder that does not exist yet")


def _require(format: str) -> None:
    try:
        if format == "faiss":
            load_faiss()
        for module in NEEDS.get(format, ()):
            load(module, "export", "the format")
    except ConfigError as error:
        raise ConfigError(f"{format}: {error}; or leave it out of --formats") from None


def _described(config: ModelConfig, model: MultiInterestModel) -> dict[str, Any]:
    history, length = map(torch.from_numpy, encoder.sample_histories(2, model.max_history))
    return {
        "name": config.name,
        "num_interests": model.interests(history[:1], length[:1]).shape[1],
        "dim": model.dim,
        "max_history": model.max_history,
    }


def _versions(formats: Sequence[str]) -> dict[str, str]:
    modules = [module for name in formats for module in NEEDS.get(name, ())]
    packages = ["remi-fast", "torch", "numpy", "polars", *modules]
    faiss = {"faiss": load_faiss().__version__} if "faiss" in formats else {}
    return {package: version(package) for package in packages} | faiss


def _write_items(
    folder: Path, model: MultiInterestModel, formats: Sequence[str], faiss_factory: str | None
) -> dict[str, Any]:
    vectors = model.table.weight.detach().numpy()
    if "safetensors" in formats:
        embeddings.save_safetensors(vectors, folder / FORMATS["safetensors"])
    if "npy" in formats:
        files.write_npy(folder / FORMATS["npy"], vectors)
    if "parquet" in formats:
        items = read_table(folder / ITEMS, len(vectors) - 1, first=1)
        embeddings.save_parquet(vectors, items, folder / FORMATS["parquet"])
    if "faiss" not in formats:
        return {}
    factory = DEFAULT_FACTORY if faiss_factory is None else faiss_factory
    embeddings.save_index(build(model, factory, "--faiss"), folder / FORMATS["faiss"])
    return {"faiss": factory}


def _write_encoders(
    folder: Path, model: MultiInterestModel, formats: Sequence[str]
) -> dict[str, float]:
    """Write and check them; return the largest difference of each."""
    seen: dict[str, float] = {}
    if "torch" in formats or "onnx" in formats:
        program = encoder.export_program(model)
    if "torch" in formats:
        name = FORMATS["torch"]
        encoder.save_program(program, folder / name)
        seen[name] = encoder.check_encoder(name, encoder.of_program(program), model)
    if "onnx" in formats:
        name = FORMATS["onnx"]
        encoder.save_onnx(program, folder / name)
        seen[name] = encoder.check_encoder(name, onnx_encoder(folder / name), model)
    return seen
