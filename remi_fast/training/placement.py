"""Where a run trains, and by which implementation; what cannot be is refused here, at once."""

import os

import torch

from remi_fast.config import Config
from remi_fast.data.dataset import Dataset
from remi_fast.errors import ConfigError
from remi_fast.kernels.device_batches import device_bytes
from remi_fast.kernels.dispatch import MAX_TRITON_DIM
from remi_fast.kernels.self_attentive import MAX_TRITON_INTERESTS, MAX_TRITON_POSITIONS

# What a step on the device can be made of: no part of it has to ask the host.
_MODELS = ("comirec-sa", "comirec-dr")
_MOST = {
    "dim": MAX_TRITON_DIM,
    "num_interests": MAX_TRITON_INTERESTS,
    "max_history": MAX_TRITON_POSITIONS,
}


def training_device(config: Config) -> torch.device:
    """The device to train on: with "auto" a GPU, if there is one that can train these settings.

    Raises ConfigError, naming the key, for settings that cannot be trained where they say.
    """
    chosen, there = config.train.device, torch.cuda.is_available()
    if chosen == "cuda" and not there:
        raise ConfigError(
            "train.device: got 'cuda', expected 'cpu' or 'auto': PyTorch "
            f"{torch.__version__} sees no GPU"
        )
    reason = why_not_on_a_gpu(config)
    if there and (chosen == "cuda" or (chosen == "auto" and not reason)):
        device = torch.device("cuda", torch.cuda.current_device())
    else:
        device = torch.device("cpu")
    if by_triton(config, device):
        _check_triton(device)
        if reason:
            raise ConfigError(f"{reason}; others train with train.device 'cpu'")
    elif config.train.precision != "fp32":
        raise ConfigError(
            f"train.precision: got {config.train.precision!r} on a CPU, expected 'fp32'"
            + (f" ({reason})" if reason else "")
        )
    return device


def by_triton(config: Config, device: torch.device) -> bool:
    """Whether Triton's kernels make the steps, on the device (tests interpret them on the CPU)."""
    return device.type == "cuda" or config.train.backend == "triton"


def fits(dataset: Dataset, min_history: int, device: torch.device) -> bool:
    """Whether the dataset may lie on the device: it takes half of what is free there, at most."""
    if device.type != "cuda":
        return True
    need = device_bytes(dataset.items, dataset.train_spans, min_history=min_history)
    return need <= available_memory(device) // 2


def available_memory(device: torch.device) -> int:
    """Bytes: what is free on a GPU; on the CPU all that the machine has."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_triton(device: torch.device) -> None:
    from remi_fast.kernels.runtime import can_run  # Triton is not imported where it is not used

    if not can_run(device):
        raise ConfigError(
            "train.backend: got 'triton' on a CPU, expected 'auto', 'native' or 'reference': "
            "Triton's kernels need a GPU"
        )


def why_not_on_a_gpu(config: Config) -> str:
    """The first setting that a step on the device cannot have: got and expected; "" of none."""
    possible = {
        "model.name": (config.model.name, _MODELS),
        "loss.name": (config.loss.name, ("ihn",)),
        "loss.selection": (config.loss.selection, ("hard",)),
        "train.backend": (config.train.backend, ("auto", "triton")),
    }
    for key, (got, expected) in possible.items():
        if got not in expected:
            return f"{key}: got {got!r} on a GPU, expected {' or '.join(map(repr, expected))}"
    for name, most in _MOST.items():
        if (got := getattr(config.model, name)) > most:
            return f"model.{name}: got {got} on a GPU, expected at most {most}"
    return ""
