"""The loss, forward and backward: contestants in turns, after each has been checked in float64.

On a GPU each contestant is a CUDA graph where it can be captured, timed by CUDA events. Peak memory
is what one call needs beyond its inputs and gradients. A graph keeps that memory: where it is gone,
those that are there have their turns and go, but for remi-fast, before the next is made.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
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
    captured,
    check_error,
    compared,
    make_all,
    take_turns,
)
from remi_fast.training.placement import available_memory

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
        makers = {n: partial(checked, n, each, inputs, precision) for n, each in formulas.items()}
        begin_anew = partial(_begin_anew, formulas, _scores(size), device)
        table, cannot = _in_turns(makers, begin_anew, rounds, seconds)
    for name, row in table.items():
        if device.type == "cuda" and name in PRODUCTS_OF:
            row["share_of_floor"] = round(1e-3 * floor_us(size, precision, name) / row["ms"], 4)
    head = {"part": "loss", "batch_size": size.batch, "negatives": size.negatives}
    head |= {"catalogue": size.catalogue, "dim": size.dim, "interests": size.interests}
    head |= {"beta": size.beta, "device": device.type, "precision": precision}
    return head | {"cannot": cannot, "contestants": table}


def check_memory(size: Size, device: torch.device, peers: str) -> None:
    """Raise ConfigError where the vectors, and the peers' matrices of scores, do not fit."""
    vectors = size.dim * (size.negatives + size.batch * (size.interests + 1))
    need = 4 * 4 * vectors + (_scores(size) if peers != "none" else 0)
    what = f"--batch-size {size.batch:,} with {size.negatives:,} negatives and --peers {peers}"
    resources.check_memory(need, device, f"{what}: vectors and scores")


def _scores(size: Size) -> int:
    """Bytes that a peer needs for its matrices."""
    return 4 * MATRICES * size.batch * size.negatives


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


def _in_turns(
    makers: Mapping[str, Callable[[], Contestant]],
    begin_anew: Callable[[Collection[str], str], bool],
    rounds: int,
    seconds: float,
) -> tuple[dict[str, Any], dict[str, str]]:
    """What was measured of each, and of those that cannot, why; all beside REMI.

    begin_anew: whether those who are there, by name, have to go before the one named is made.
    """
    table: dict[str, Any] = {}
    there: dict[str, Contestant] = {}
    cannot: dict[str, str] = {}

    def measure() -> None:
        nonlocal table
        times = take_turns({n: each.run for n, each in there.items()}, rounds, seconds)
        rows = compared(times, REMI)
        table = {n: row | there[n].notes for n, row in rows.items()} | table

    for name, make in makers.items():
        if len(there) > 1 and begin_anew(there, name):
            measure()
            for gone in there.keys() - {REMI}:
                del there[gone]
        made, reasons = make_all({name: make})
        there.update(made)
        cannot |= reasons
        del made  # a graph lives no longer than it is there
    measure()
    return {name: table[name] for name in makers if name in table}, cannot


def _begin_anew(
    formulas: Mapping[str, Formula],
    need: int,
    device: torch.device,
    there: Collection[str],
    name: str,
) -> bool:
    """What torch.compile made for a CPU is timed apart: it brings an OpenMP of its own, and two of
    them slow PyTorch down several times. On a GPU there have to be `need` bytes for another peer's
    graph, and as much for the turn of one that is no graph."""
    if device.type == "cpu":
        return formulas[name].compiled and not any(formulas[n].compiled for n in there)
    torch.cuda.empty_cache()
    return 2 * need > available_memory(device)


def floor_us(size: Size, precision: str, name: str) -> float:
    """Microseconds that forward and backward take at least on an H100, one exponential a score in
    each."""
    pairs = size.batch * size.negatives
    products = PRODUCTS_OF[name] * 2 * pairs * size.dim / PRODUCTS[precision]
    return 1e6 * max(products, 2 * pairs / EXPONENTIALS)
