"""Tensors that do not make the state of DeferredAdam together are refused."""

import re

import pytest
import torch

from remi_fast.kernels import deferred_adam as kernel
from remi_fast.kernels.native import C
from tests.kernels.test_deferred_adam import DIM, ROWS, beside_moments, copies, fresh


def test_rows_that_are_not_equally_far_apart_are_refused():
    state, table = fresh(torch.float32)
    weight, *moments, stamp = (x.cpu() for x in copies(state))
    sizes = (0.9, 0.999, 1e-8, table.step_size, table.inv_sqrt_correction)
    for apart, name, message in (
        (beside_moments(state).weight.cpu(), "exp_avg", "as far apart"),
        (weight.T.contiguous().T, "weight", "weight: expected rows that are contiguous"),
        (torch.stack([weight] * 2, 2)[..., 0], "weight", "rows that are contiguous"),
        (weight[:1].expand(ROWS, DIM), "weight", "one after the other"),
    ):
        wrong = [apart, *moments, stamp]
        strides = re.escape(str(tuple((moments[0] if name == "exp_avg" else apart).stride())))
        with pytest.raises(ValueError, match=f"^{name}: got strides {strides}, expected rows that"):
            kernel.AdamState(*wrong)
        with pytest.raises(ValueError, match=message):
            C.AdamView(*(x.numpy() for x in wrong), *sizes)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("weight", (ROWS * DIM,), "(I, d)"),
        ("exp_avg", (ROWS, DIM + 1), f"(I, d), the weight's: {(ROWS, DIM)}"),
        ("exp_avg_sq", (ROWS - 1, DIM), f"(I, d), the weight's: {(ROWS, DIM)}"),
        ("stamp", (ROWS - 1,), f"{(ROWS,)}"),
    ],
    ids=["weight", "exp_avg", "exp_avg_sq", "stamp"],
)
def test_state_of_unequal_shapes_is_refused(name, shape, expected):
    names = ("weight", "exp_avg", "exp_avg_sq", "stamp")
    tensors = dict(zip(names, copies(fresh(torch.float32)[0]), strict=True))
    tensors[name] = torch.zeros(shape)
    message = f"{name}: got shape {shape}, expected {expected}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        kernel.AdamState(**tensors)
