"""The loss, forward and backward: contestants in turns, after each has been checked in float64.

On a GPU each contestant is a CUDA graph where it can be captured, timed by CUDA events. Peak memory
is what one call needs beyond its inputs and gradients.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from remi_fast.benchmark import resources
from remi_fast.benchmark.loss_contestants import (
    Formula,
    LossInputs,
    Size,
    contestants,
    differentiate,
    make_inputs,
    truth,
)
from remi_fast.benchmark.turns import (
    PLAIN,
    REMI,
    Contestant,
    Run,
    captured,
    check_error,
    compared,
    make_all,
    take_turns,
)

# (dtype, torch's precision of float32 products): tf32x3 is as exact as float32.
PRECISIONS = {
    "fp32": (torch.float32, "highest"),
    "tf32": (torch.float32, "high"),
    "bf16": (torch.bfloat16, "highest"),
}
# Largest relative error of loss and gradients: exponents of scores of standard deviation 2.
TOLERANCE = {"fp32": 1e-4, "tf32": 3e-2, "bf16": 1e-1}
MATRICES = 5  # of scores (B, N), that the formulas hold at once
# What physics allows the loss on an H100 or H200: the time of its products and exponentials, in
# operations a second: products as measured on an H200 by torch (bf16) and their usual fractions,
# exponentials as published for the H100 (FlashAttention-3). Nothing of size B x N moves.
PRODUCTS = {"bf16": 788e12, "tf32": 394e12, "fp32": 131e12}  # float32 as three tf32
EXPONENTIALS = 3.9e12
PRODUCTS_OF = {REMI: 5, PLAIN: 4}  # of 2 B N d operations each


def compare(
    size: Size, precision: str, device: torch.device, *, peers: str, rounds: int, seconds: float
) -> dict[str, Any]:
    """One case: each contestant checked, then all in turns, `seconds` each in each round."""
    with _products(precision):
        inputs = make_inputs(size, device, PRECISIONS[precision][0])
        formulas = contestants(size, peers)
        made, cannot = make_all(
            {n: partial(checked, n, each, inputs, precision) for n, each in formulas.items()}
        )
        runs = {n: each.run for n, each in made.items()}
        apart = {n for n in runs if formulas[n].compiled and device.type == "cpu"}
        table = _in_turns(runs, apart, rounds, seconds)
    for name, row in table.items():
        row |= made[name].notes
        if device.type == "cuda" and name in PRODUCTS_OF:
            row["share_of_floor"] = round(1e-3 * floor_us(size, precision, name) / row["ms"], 4)
    head = {"part": "loss", "batch_size": size.batch, "negatives": size.negatives}
    head |= {"catalogue": size.catalogue, "dim": size.dim, "interests": size.interests}
    head |= {"beta": size.beta, "device": device.type, "precision": precision}
    return head | {"cannot": cannot, "contestants": table}


def check_memory(size: Size, device: torch.device, peers: str) -> None:
    """Raise ConfigError where the vectors, and the peers' matrices of scores, do not fit."""
    vectors = size.dim * (size.negatives + size.batch * (size.interests + 1))
    need = 4 * (4 * vectors + MATRICES * size.batch * size.negatives * (peers != "none"))
    what = f"--batch-size {size.batch:,} with {size.negatives:,} negatives and --peers {peers}"
    resources.check_memory(need, device, f"{what}: vectors and scores")


@contextmanager
def _products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRECISIONS[precision][1])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def checked(name: str, formula: Formula, inputs: LossInputs, precision: str) -> Contestant:
    """The contestant, if it computes what float64 does."""
    run, device = make_run(formula, inputs), inputs.interests.device
    found = check_error(error(run(), truth(formula, inputs)), TOLERANCE[precision], name)
    notes = {"relative_error": found, "peak_bytes": resources.call_memory(run, device)}
    replay, notes["captured"] = captured(run, device)
    return Contestant(replay, notes=notes)


def make_run(formula: Formula, inputs: LossInputs) -> Callable[[], list[Tensor]]:
    """Loss and gradients of one call."""

    def run() -> list[Tensor]:
        loss = formula(inputs)
        return [loss.detach(), *differentiate(loss, inputs)]

    return run


def error(got: list[Tensor], exact: list[Tensor]) -> float:
    """Largest error of loss and gradients, each relative to its largest entry."""
    errors = [
        (mine.double() - true).abs().max() / true.abs().max().clamp_min(1e-30)
        for mine, true in zip(got, exact, strict=True)
        if true.abs().max() > 0
    ]
    return torch.stack(errors).max().item()  # NaN if one is


def _in_turns(runs: dict[str, Run], apart: set[str], rounds: int, seconds: float) -> dict[str, Any]:
    """What torch.compile made for a CPU is timed apart, beside remi-fast alone: it brings an OpenMP
    of its own, and two of them slow PyTorch down several times."""
    groups = [
        [n for n in runs if n not in apart],
        [n for n in runs if n in apart or n == REMI],
    ]
    table: dict[str, Any] = {}
    for group in groups:
        if len(group) > 1:
            times = take_turns({n: runs[n] for n in group}, rounds, seconds)
            table = compared(times, REMI) | table
    return {name: table[name] for name in runs}


def floor_us(size: Size, precision: str, name: str) -> float:
    """Microseconds that forward and backward take at least on an H100, one exponential a score in
    each."""
    pairs = size.batch * size.negatives
    products = PRODUCTS_OF[name] * 2 * pairs * size.dim / PRODUCTS[precision]
    return 1e6 * max(products, 2 * pairs / EXPONENTIALS)
