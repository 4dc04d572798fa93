"""Checkpoints: safetensors and JSON, written whole or not at all, verified when read.

`last` continues a run bit for bit: raw table, moments, stamps, dense optimizer, progress.
`best` holds weights only, brought up to date, for use after training. Neither writing nor reading
holds more than a shard beside the model and its optimizers.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from remi_fast import files
from remi_fast.errors import RunFolderError
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.training import shards
from remi_fast.training.step import TrainingStep

FORMAT = {"format": "remi-fast-checkpoint", "version": 1}
TABLE_STATE = ("exp_avg", "exp_avg_sq", "stamp")  # of DeferredAdam's state, what is not JSON


def save_training_state(folder: Path, trainer: TrainingStep, progress: dict[str, Any]) -> None:
    """Replace `folder` by the complete state after the step just done."""
    table = trainer.table_optimizer.state_dict()
    moments = {name: table.pop(name) for name in TABLE_STATE}
    with files.new_folder(folder) as new:
        paths = shards.write(new, "model", trainer.model.state_dict())
        paths += shards.write(new, "table_optimizer", moments)
        paths += shards.write(new, "dense_optimizer", _dense_state(trainer.dense_optimizer))
        _write_state(new, paths, {"table_optimizer": table, "progress": progress})


def restore_training_state(folder: Path, trainer: TrainingStep) -> dict[str, Any]:
    """Put a saved state back in place; return its progress."""
    groups, state = _open(folder)
    table = trainer.table_optimizer.state_dict()  # the moments themselves, not copies
    _read_into(folder, groups["model"], trainer.model.state_dict())
    _read_into(folder, groups["table_optimizer"], {name: table[name] for name in TABLE_STATE})
    trainer.table_optimizer.load_state_dict(table | state["table_optimizer"])
    _load_dense_state(trainer.dense_optimizer, shards.read(groups["dense_optimizer"]))
    progress: dict[str, Any] = state["progress"]
    return progress


def save_weights(folder: Path, model: MultiInterestModel, progress: dict[str, Any]) -> None:
    """Replace `folder` by the weights alone, every item row up to date."""
    with files.new_folder(folder) as new:
        up_to_date = {"table.weight": model.rows}
        paths = shards.write(new, "model", model.state_dict(), up_to_date)
        _write_state(new, paths, {"progress": progress})


def load_weights(folder: Path, model: MultiInterestModel) -> dict[str, Any]:
    """Load `best`-style weights into a model that has no optimizer; return the progress."""
    groups, state = _open(folder)
    _read_into(folder, groups["model"], model.state_dict())
    progress: dict[str, Any] = state["progress"]
    return progress


def _write_state(folder: Path, paths: list[Path], state: dict[str, Any]) -> None:
    checksums = {path.name: files.checksums(path) for path in paths}
    files.write_json(folder / "state.json", FORMAT | state | {"files": checksums})


def _open(folder: Path) -> tuple[dict[str, list[Path]], dict[str, Any]]:
    """Verify a checkpoint; return its files by group, and state.json."""
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
    groups: dict[str, list[Path]] = {}
    for name, checksums in state["files"].items():
        files.verify(folder / name, checksums)
        groups.setdefault(shards.group_of(name), []).append(folder / name)
    return groups, state


def _read_into(folder: Path, paths: list[Path], tensors: dict[str, Tensor]) -> None:
    shapes = shards.shapes(paths)
    expected = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != expected:
        raise RunFolderError(
            f"{folder}: checkpoint of another model: got tensors {shapes}, expected {expected}"
        )
    shards.read_into(paths, tensors)


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
