"""remi-fast: fast, exact training of multi-interest retrieval models (REMI, RecSys 2023).

from remi_fast import REMILoss, DeferredAdam, train, load
import remi_fast.functional as F
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from remi_fast.api import load, resume, train
    from remi_fast.config import Config
    from remi_fast.losses import REMILoss
    from remi_fast.models.item_table import ItemTable
    from remi_fast.optim import DeferredAdam

# Imported on first use, so that `remi-fast --help` does not wait for torch.
_HOMES = {
    "Config": "remi_fast.config",
    "DeferredAdam": "remi_fast.optim",
    "ItemTable": "remi_fast.models.item_table",
    "REMILoss": "remi_fast.losses",
    "load": "remi_fast.api",
    "resume": "remi_fast.api",
    "train": "remi_fast.api",
}

__all__ = ["Config", "DeferredAdam", "ItemTable", "REMILoss", "load", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'remi_fast' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
