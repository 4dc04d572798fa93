"""What arguments have to be: errors that name the argument, what was got and what was expected."""

import math
from collections.abc import Mapping

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


def check_shapes(
    like_name: str,
    like: Tensor,
    expected: Mapping[str, tuple[Tensor | None, tuple[int, ...]]],
    *,
    same_dtype: bool = False,
) -> None:
    """Raise ValueError unless each tensor has its shape, and device (and dtype) of `like`.

    Under autocast dtypes may differ: the operation chooses its own.
    """
    mixed = torch.is_autocast_enabled(like.device.type)
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: got {type(tensor).__name__}, expected a tensor")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected {shape}")
        if tensor.device != like.device:
            raise ValueError(
                f"{name}: got device {tensor.device}, expected {like.device} as {like_name}"
            )
        if same_dtype and not mixed and tensor.dtype != like.dtype:
            raise ValueError(
                f"{name}: got dtype {tensor.dtype}, expected {like.dtype} as {like_name}"
            )


def check_history(history: Tensor, length: Tensor) -> None:
    """Raise TypeError or ValueError unless history is (B, L, d) of a floating dtype, L > 0, and
    length (B,) whole numbers from 0 to L; a GPU is not waited for: of its lengths none is read.
    """
    check_tensor("history", history)
    check_tensor("length", length)
    if history.ndim != 3 or history.shape[1] == 0 or not history.is_floating_point():
        raise ValueError(
            f"history: got {tuple(history.shape)} {history.dtype}, "
            "expected (B, L, d) of a floating dtype, L > 0"
        )
    batch = history.shape[0]  # len() would fix it where torch.export traces
    check_shapes("history", history, {"length": (length, (batch,))})
    if length.is_floating_point() or length.is_complex() or length.dtype == torch.bool:
        raise ValueError(f"length: got {length.dtype}, expected whole numbers")
    if length.device.type != "cpu" or torch.compiler.is_compiling() or not len(length):
        return
    values = length.numpy()
    for found in (values.min(), values.max()):
        if not 0 <= found <= history.shape[1]:
            raise ValueError(f"length: got {found}, expected 0 <= length <= {history.shape[1]}")


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
