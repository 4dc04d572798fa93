"""Checkpoints: safetensors and JSON, written whole or not at all, verified when read.

`last` continues a run bit for bit: raw table, moments, stamps, dense optimizer, progress.
`best` holds weights only, brought up to date, for use after training.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from remi_fast import files
from remi_fast.errors import RunFolderError
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.training.step import TrainingStep

FORMAT = {"format": "remi-fast-checkpoint", "version": 1}


def save_training_state(folder: Path, trainer: TrainingStep, progress: dict[str, Any]) -> None:
    """Replace `folder` by the complete state after the step just done."""
    table = trainer.table_optimizer.state_dict()
    moments = {name: table.pop(name) for name in ("exp_avg", "exp_avg_sq", "stamp")}
    tensors = {
        "model": _contiguous(trainer.model.state_dict()),
        "table_optimizer": _contiguous(moments),
        "dense_optimizer": _dense_state(trainer.dense_optimizer),
    }
    _write(folder, tensors, {"table_optimizer": table, "progress": progress})


def restore_training_state(folder: Path, trainer: TrainingStep) -> dict[str, Any]:
    """Put a saved state back in place; return its progress."""
    tensors, state = _read(folder)
    _load_weights(folder, trainer.model, tensors["model"])
    trainer.table_optimizer.load_state_dict(tensors["table_optimizer"] | state["table_optimizer"])
    _load_dense_state(trainer.dense_optimizer, tensors["dense_optimizer"])
    progress: dict[str, Any] = state["progress"]
    return progress


def save_weights(folder: Path, model: MultiInterestModel, progress: dict[str, Any]) -> None:
    """Replace `folder` by the weights alone, every item row up to date."""
    weights = _contiguous(model.state_dict())
    weights["table.weight"] = model.rows(0, model.num_items)
    _write(folder, {"model": weights}, {"progress": progress})


def load_weights(folder: Path, model: MultiInterestModel) -> dict[str, Any]:
    """Load `best`-style weights into a model that has no optimizer; return the progress."""
    tensors, state = _read(folder)
    _load_weights(folder, model, tensors["model"])
    progress: dict[str, Any] = state["progress"]
    return progress


def _write(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    with files.new_folder(folder) as temporary:
        checksums = {}
        for name, group in tensors.items():
            path = temporary / f"{name}.safetensors"
            save_file(group, path)
            checksums[path.name] = files.checksums(path)
        files.write_json(temporary / "state.json", FORMAT | state | {"files": checksums})


def _read(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    files.recover_folder(folder)
    path = folder / "state.json"
    if not path.is_file():
        raise RunFolderError(f"{folder}: not a checkpoint, expected it to hold state.json")
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path}: not valid JSON ({error})") from None
    for key, expected in FORMAT.items():
        if state.get(key) != expected:
            raise RunFolderError(f"{path}: got {key} {state.get(key)!r}, expected {expected!r}")
    tensors = {}
    for name, checksums in state["files"].items():
        files.verify(folder / name, checksums)
        tensors[Path(name).stem] = load_file(folder / name)
    return tensors, state


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _load_weights(folder: Path, model: MultiInterestModel, weights: dict[str, Tensor]) -> None:
    own = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if shapes != expected:
        raise RunFolderError(
            f"{folder}: checkpoint of another model: got tensors {shapes}, expected {expected}"
        )
    for name, tensor in weights.items():
        own[name].copy_(tensor)


def _dense_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, group in state.items() for key, value in group.items()}


def _load_dense_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
