"""What arguments have to be: errors that name the argument, what was got and what was expected."""

import math

import numpy as np
import torch
from torch import Tensor

WHOLE = (int, np.integer, torch.SymInt)
REAL = (*WHOLE, float, np.floating, torch.SymFloat, Tensor)


def check_whole(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a whole number; a truth is none."""
    if isinstance(value, bool) or not isinstance(value, WHOLE):
        raise TypeError(f"{name}: got {value!r}, expected a whole number")


def check_weight(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless `value` is a finite number >= 0."""
    if not isinstance(value, REAL):
        raise TypeError(f"{name}: got {value!r}, expected a finite number >= 0")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: got {value}, expected a finite number >= 0")


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a tensor, ValueError unless it is dense and has data."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a tensor")
    if value.layout != torch.strided or value.device.type == "meta":
        raise ValueError(
            f"{name}: got a {value.layout} tensor on {value.device}, expected a dense one with data"
        )


def check_ids(name: str, ids: Tensor, device: torch.device) -> None:
    """Raise TypeError unless ids are int32 or int64, ValueError unless they are on `device`."""
    check_tensor(name, ids)
    if ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: got {ids.dtype}, expected int32 or int64")
    if ids.device != device:
        raise ValueError(f"{name}: got device {ids.device}, expected {device} as the table")


def check_inside(name: str, ids: Tensor, num_rows: int) -> None:
    """Raise IndexError, naming the first, for ids outside [0, num_rows). A GPU is waited for."""
    outside = ((ids < 0) | (ids >= num_rows)).flatten().nonzero()
    if len(outside):
        first = int(outside[0])
        got = int(ids.flatten()[first])
        raise IndexError(f"{name}[{first}] = {got}, expected 0 <= id < {num_rows}")
