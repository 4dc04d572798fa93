"""Checkpoints: safetensors and JSON, written whole or not at all, verified when read.

`last` continues a run bit for bit: raw table, moments, stamps, dense optimizer, progress.
`best` holds weights only, brought up to date, for use after training. Neither writing nor reading
holds more than a shard beside the model and its optimizers.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from remi_fast import files
from remi_fast.errors import RunFolderError, listed
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.optim import check_steps
from remi_fast.training import shards
from remi_fast.training.step import TrainingStep

FORMAT = {"format": "remi-fast-checkpoint", "version": 1}
STATE = "state.json"
TABLE_STATE = ("exp_avg", "exp_avg_sq", "stamp")  # of DeferredAdam's state, what is never JSON
RATES = "lr_runs"  # of DeferredAdam's state: JSON, or a tensor where they are many


def save_training_state(folder: Path, trainer: TrainingStep, progress: dict[str, Any]) -> None:
    """Replace `folder` by the complete state after the step just done."""
    table = trainer.table_optimizer.state_dict()
    tensors = {name: table.pop(name) for name in (*TABLE_STATE, RATES) if _is_tensor(table[name])}
    with files.new_folder(folder, replace=True) as new:
        paths = shards.write(new, "model", trainer.model.state_dict())
        paths += shards.write(new, "table_optimizer", tensors)
        paths += shards.write(new, "dense_optimizer", _dense_state(trainer.dense_optimizer))
        _write_state(new, paths, {"table_optimizer": table, "progress": progress})


def restore_training_state(folder: Path, trainer: TrainingStep) -> dict[str, Any]:
    """Put a saved state back in place; return its progress."""
    groups, state = _open(folder, "model", "table_optimizer", "dense_optimizer")
    table = trainer.table_optimizer.state_dict()  # the moments themselves, not copies
    numbers = _table_numbers(folder, state, groups["table_optimizer"], trainer.config.train.steps)
    tensors = {name: table[name] for name in TABLE_STATE}
    if _is_tensor(numbers[RATES]):
        tensors[RATES] = numbers[RATES]
    dense = _dense_forms(trainer.dense_optimizer) if numbers["step"] else {}
    _check(folder, groups["model"], trainer.model.state_dict())
    _check(folder, groups["dense_optimizer"], dense)
    _check(folder, groups["table_optimizer"], tensors)
    _read_into(folder, groups["model"], trainer.model.state_dict())
    _read_into(folder, groups["table_optimizer"], tensors)
    try:
        trainer.table_optimizer.load_state_dict(numbers | tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{folder}: not a state of this table: {error}") from None
    _load_dense_state(trainer.dense_optimizer, shards.read(groups["dense_optimizer"]))
    progress: dict[str, Any] = state["progress"]
    return progress


def save_weights(folder: Path, model: MultiInterestModel, progress: dict[str, Any]) -> None:
    """Replace `folder` by the weights alone, every item row up to date."""
    with files.new_folder(folder, replace=True) as new:
        up_to_date = {"table.weight": model.rows}
        paths = shards.write(new, "model", model.state_dict(), up_to_date)
        _write_state(new, paths, {"progress": progress})


def load_weights(folder: Path, model: MultiInterestModel) -> dict[str, Any]:
    """Load `best`-style weights into a model that has no optimizer; return the progress."""
    groups, state = _open(folder, "model")
    _read_into(folder, groups["model"], model.state_dict())
    progress: dict[str, Any] = state["progress"]
    return progress


def verify_weights(folder: Path) -> None:
    """Raise what `load_weights` would, of damaged files."""
    _open(folder, "model")


def _write_state(folder: Path, paths: list[Path], state: dict[str, Any]) -> None:
    checksums = {path.name: files.checksums(path) for path in paths}
    files.write_checked_json(folder / STATE, FORMAT | state | {"files": checksums})


def _open(folder: Path, *expected_groups: str) -> tuple[dict[str, list[Path]], dict[str, Any]]:
    """Verify a checkpoint; return its files by group, and state.json."""
    folder = files.standing(folder)
    path = folder / STATE
    if not path.is_file():
        raise RunFolderError(f"{folder}: not a checkpoint, expected it to hold {STATE}")
    state = files.read_checked_json(path)
    for key, expected in FORMAT.items():
        if state.get(key) != expected:
            raise RunFolderError(f"{path}: got {key} {state.get(key)!r}, expected {expected!r}")
    groups: dict[str, list[Path]] = {}
    files.verify_folder(folder, STATE, state.get("files"))
    for name in state["files"]:
        groups.setdefault(shards.group_of(name), []).append(folder / name)
    if set(groups) != set(expected_groups) or not isinstance(state.get("progress"), dict):
        raise RunFolderError(
            f"{folder}: got files of {', '.join(sorted(groups)) or 'nothing'} and progress "
            f"{state.get('progress')!r:.100}, expected {', '.join(expected_groups)} and an object"
        )
    return groups, state


def _table_numbers(
    folder: Path, state: dict[str, Any], tensors: list[Path], max_steps: int
) -> dict[str, Any]:
    """What a checkpoint says of the table's optimizer, of at most `max_steps` steps: state.json,
    and its learning rates, if they are among the tensors."""
    numbers: Any = state.get("table_optimizer")
    try:
        numbers = shards.read(tensors, RATES) | dict(numbers)
        check_steps(numbers)
        valid = numbers["step"] <= max_steps
    except (ValueError, TypeError):
        valid = False
    if not valid:
        got = " ".join(repr(numbers).split())  # a tensor has several lines
        raise RunFolderError(
            f"{folder / STATE}: got table_optimizer {got:.200}, expected at most {max_steps} "
            "steps, and the first step and the rate of ascending runs of them from step 1, or a "
            "rate of each"
        )
    return dict(numbers)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _check(folder: Path, paths: list[Path], tensors: dict[str, Tensor]) -> None:
    forms = shards.forms(paths)
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    wrong = [n for n in sorted(forms.keys() | expected) if forms.get(n) != expected.get(n)]
    if wrong:
        raise RunFolderError(
            f"{folder}: checkpoint of another model: got {wrong[0]} of {forms.get(wrong[0])}, "
            f"expected {expected.get(wrong[0])}; tensors that differ: {listed(wrong)}"
        )


def _read_into(folder: Path, paths: list[Path], tensors: dict[str, Tensor]) -> None:
    _check(folder, paths, tensors)
    shards.read_into(paths, tensors)


def _dense_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, group in state.items() for key, value in group.items()}


def _dense_forms(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors like those of Adam's state after a step."""
    forms: dict[str, Tensor] = {}
    for i, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        forms |= {f"{i}.step": torch.zeros(()), f"{i}.exp_avg": parameter}
        forms[f"{i}.exp_avg_sq"] = parameter
    return forms


def _load_dense_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
