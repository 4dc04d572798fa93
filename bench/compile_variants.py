"""The shipped variants of the Triton kernels, and the host code run on them without a GPU.

The tensors are on torch's meta device: shapes, strides and alignment, but no memory. So the host
code picks the tiles and Triton specialises the arguments as it does on a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from remi_fast.kernels import capsule_routing_launch as capsules
from remi_fast.kernels import deferred_adam_launch as adam
from remi_fast.kernels import dense_adam_launch as dense
from remi_fast.kernels import device_batches_launch as batches
from remi_fast.kernels import ihn_loss_launch as launches
from remi_fast.kernels import self_attentive_launch as attention
from remi_fast.kernels import step_guard_launch as guards
from remi_fast.kernels.deferred_adam_state import AdamState, StepTable
from remi_fast.kernels.dense_adam import DenseWeights
from remi_fast.kernels.device_batches import Buffers, Sequences
from remi_fast.kernels.step_guard import StepGuard, StepMade

# Name: dtype of the tensors, dtype of the products, torch's float32 matmul precision.
ARITHMETIC = {
    "tf32x3": (torch.float32, torch.float32, "highest"),
    "tf32": (torch.float32, torch.float32, "high"),
    "bf16": (torch.bfloat16, torch.bfloat16, "highest"),
    "fp16": (torch.float16, torch.float16, "highest"),
    "float64": (torch.float64, torch.float64, "highest"),
    "autocast": (torch.float32, torch.bfloat16, "highest"),
}
TENSOR_CORES = ("tf32x3", "tf32", "bf16", "fp16")  # what is benchmarked
BATCHES = (128, 1024, 8192)
BETAS = (0.0, 0.1, 0.37, 10.0)  # besides 1: no second sum, one exponential, two, one
DIMS = (16, 50, 100, 128, 200, 256)  # besides 64; rows of 50, 100, 200 are read otherwise
ADAM_DIMS = (1, 16, 50, 100, 128, 256, 512)  # besides 64
ADAM_BETAS = ((0.0, 0.999), (0.95, 0.98))  # besides 0.9, 0.999
CAPSULE_DIMS = (16, 100, 128)  # besides 64, and of every dtype 50 and 256
BATCH_HISTORIES = (1, 50, 256)  # besides 20
_GATHERED = 3968  # ids: 128 histories of 20, 128 targets, 1,280 negatives
_HISTORY = 20
_BATCH = 128
_ITEMS = 368_000
_USERS = 600_000
_TARGETS = 7_000_000


@dataclass(frozen=True)
class Variant:
    """One way to call the loss; N = 10 B negatives, but of a catalogue all its items."""

    arithmetic: str
    batch: int = 1024
    dim: int = 64
    interests: int = 4
    source: str = "table"
    beta: float = 1.0
    # Some of mask, draw, log_q, detach, routing, no_slope, int32, half_interests.
    options: tuple[str, ...] = ("mask",)

    def __str__(self) -> str:
        sizes = f"B{self.batch} d{self.dim} K{self.interests} beta={self.beta:g}"
        return " ".join([self.arithmetic, self.source, sizes, *self.options])


@dataclass(frozen=True)
class AdamVariant:
    """One operation of deferred Adam: gather, read, update or flush, or one that is guarded."""

    operation: str
    dim: int = 64
    betas: tuple[float, float] = (0.9, 0.999)
    arithmetic: str = "adam"

    def __str__(self) -> str:
        return f"{self.arithmetic} {self.operation} d{self.dim} betas={self.betas}"


@dataclass(frozen=True)
class DenseVariant:
    """Adam on the extractor of one of the models, as a step without the host makes it."""

    model: str
    dim: int = 64
    interests: int = 4
    arithmetic: str = "dense"

    def __str__(self) -> str:
        return f"{self.arithmetic} {self.model} d{self.dim} K{self.interests}"


@dataclass(frozen=True)
class CapsuleVariant:
    """Routing of one of the models, forward and backward."""

    model: str
    dtype: str = "float32"
    dim: int = 64
    interests: int = 4
    history: int = _HISTORY
    through_routing: bool = True
    arithmetic: str = "capsules"

    def __str__(self) -> str:
        sizes = f"d{self.dim} K{self.interests} L{self.history}"
        through = " through routing" if self.through_routing else ""
        return f"{self.model} {self.dtype} {sizes}{through}"


@dataclass(frozen=True)
class AttentionVariant:
    """ComiRec-SA's extractor, forward and backward; four hidden units a dimension.

    query: with the choice of the interest and RR, as in training.
    """

    arithmetic: str
    batch: int = 1024
    dim: int = 64
    interests: int = 4
    history: int = _HISTORY
    routing_gradient: bool = True  # by RR, with query
    query: bool = False

    def __str__(self) -> str:
        sizes = f"B{self.batch} d{self.dim} K{self.interests} L{self.history}"
        query = " query" if self.query else ""
        constant = "" if self.routing_gradient else " no routing gradient"
        return f"{self.arithmetic} comirec-sa {sizes}{query}{constant}"


@dataclass(frozen=True)
class BatchVariant:
    """A training batch drawn on the device."""

    sampling: str  # uniform, replacement (more samples than users) or epoch
    history: int = _HISTORY
    step_on_device: bool = True
    users: int = _USERS
    arithmetic: str = "batches"

    def __str__(self) -> str:
        step = "" if self.step_on_device else " step from the host"
        return f"{self.sampling} L{self.history} users={self.users}{step}"


@dataclass(frozen=True)
class GuardVariant:
    """The look at a step of ComiRec-SA."""

    dim: int = 64
    rr: bool = True
    batch: int = 128
    arithmetic: str = "guard"

    def __str__(self) -> str:
        others = ("" if self.rr else " no rr") + (" b1" if self.batch == 1 else "")
        return f"{self.arithmetic} d{self.dim}{others}"


AnyVariant = (
    Variant
    | AdamVariant
    | DenseVariant
    | CapsuleVariant
    | AttentionVariant
    | BatchVariant
    | GuardVariant
)


def _capsules(**sizes: Any) -> list[CapsuleVariant]:
    return [CapsuleVariant(model, **sizes) for model in ("comirec-dr", "mind")]


def _attention(arithmetic: str) -> list[AttentionVariant]:
    """Other dimensions, long histories, many interests; all interests, and the chosen one."""
    sizes: tuple[dict[str, Any], ...] = (
        *({"batch": batch} for batch in BATCHES),
        {"dim": 100}, {"dim": 256, "interests": 16}, {"interests": 16}, {"history": 256},
        {"dim": 256, "history": 256}, {"routing_gradient": False},
    )  # fmt: skip
    both = product(sizes, (False, True))
    return [AttentionVariant(arithmetic, **size, query=query) for size, query in both]


# Guarded: as in a step that the device makes by itself.
_ADAM_OPERATIONS = "gather", "guarded gather", "read", "update", "guarded update", "flush"


def _adam(**sizes: Any) -> list[AdamVariant]:
    return [AdamVariant(name, **sizes) for name in _ADAM_OPERATIONS]


def _dense(**sizes: Any) -> list[DenseVariant]:
    return [DenseVariant(model, **sizes) for model in ("comirec-sa", "comirec-dr", "mind")]


def _batches(**sizes: Any) -> list[BatchVariant]:
    return [BatchVariant(sampling, **sizes) for sampling in ("uniform", "epoch")]


def benchmarked() -> list[AnyVariant]:
    """The loss that the benchmark times, and the kernels of a training step."""
    timed = {"source": "rows", "options": ("routing",)}
    drawn = {"batch": 128, "options": ("draw", "mask", "routing")}
    trained = {"batch": 128, "interests": 1, "source": "rows", "options": ()}  # one is chosen
    variants: list[AnyVariant]
    variants = [Variant(a, b, **timed) for a, b in product(TENSOR_CORES, BATCHES)]
    variants += [Variant(a, **kind) for kind, a in product((drawn, trained), TENSOR_CORES)]
    attention = [AttentionVariant(a, b, query=True) for a, b in product(TENSOR_CORES, BATCHES)]
    guards = [GuardVariant(), GuardVariant(batch=1)]
    of_a_step = [*_adam(), *_dense(), *_capsules(), *_batches(), *attention, *guards]
    return [*variants, *of_a_step]


def shipped() -> list[AnyVariant]:
    """Those, and every arithmetic with other sources, betas, options and sizes."""
    variants = benchmarked()
    for name in ARITHMETIC:
        variants += [Variant(name, source=source) for source in ("table", "rows", "catalogue")]
        variants += [Variant(name, beta=beta) for beta in BETAS]
        variants += [Variant(name, dim=dim, options=("mask", "routing")) for dim in DIMS]
        variants += [Variant(name, source="catalogue", dim=dim, beta=0.37) for dim in (100, 256)]
        variants += [
            Variant(name, source="rows", beta=0.0, options=()),
            Variant(name, options=("draw", "no_slope")),
            Variant(name, beta=0.37, options=("draw", "mask", "log_q")),
            Variant(name, options=("mask", "log_q", "detach", "int32")),
            Variant(name, interests=1),
            Variant(name, interests=16, dim=200, beta=0.37, options=("draw", "mask", "log_q")),
            Variant(name, batch=1, source="rows"),
            Variant(name, batch=77, dim=50, source="catalogue"),
        ]
    for dim in (50, 64, 128, 256):
        variants.append(Variant("autocast", dim=dim, options=("mask", "half_interests")))
    for dim in ADAM_DIMS:
        variants += _adam(dim=dim)
    for betas in ADAM_BETAS:
        variants += _adam(betas=betas)
    for sizes in ({"dim": 1, "interests": 1}, {"dim": 50, "interests": 3}, {"dim": 256}):
        variants += _dense(**sizes)
    variants += _capsules(through_routing=False) + _capsules(interests=16, history=256)
    for dim in CAPSULE_DIMS:
        variants += _capsules(dim=dim)
    for dtype, dim in product(("float32", "bfloat16", "float16", "float64"), (50, 64, 256)):
        variants += _capsules(dtype=dtype, dim=dim)
    for name in ARITHMETIC:
        variants += _attention(name)
    variants += _batches(step_on_device=False) + _batches(users=100)
    for history in BATCH_HISTORIES:
        variants += _batches(history=history)
    variants.append(BatchVariant("replacement"))
    variants += [GuardVariant(dim, rr) for dim in (1, 50, 256) for rr in (True, False)]
    return list(dict.fromkeys(variants))


def run(variant: AnyVariant) -> None:
    """A variant by the host code, forward and backward; launches must be replaced."""
    if isinstance(variant, AdamVariant):
        _call_adam(variant)
    elif isinstance(variant, DenseVariant):
        _call_dense(variant)
    elif isinstance(variant, CapsuleVariant):
        _call_capsules(variant)
    elif isinstance(variant, AttentionVariant):
        with _precision(variant.arithmetic):
            _call_attention(variant)
    elif isinstance(variant, BatchVariant):
        _call_batches(variant)
    elif isinstance(variant, GuardVariant):
        _call_guard(variant)
    else:
        with _precision(variant.arithmetic):
            _forward_and_backward(variant)


def _adam_state(dim: int) -> AdamState:
    return AdamState(
        *(_empty(_ITEMS, dim, dtype=torch.float32) for _ in range(3)),
        stamp=_empty(_ITEMS, dtype=torch.int32),
    )


def _call_adam(variant: AdamVariant) -> None:
    state = _adam_state(variant.dim)
    steps, ids = StepTable(*variant.betas, 1e-8), _empty(_GATHERED, dtype=torch.int64)
    rows = adam.sort_ids(ids, _ITEMS)
    found_inf = _empty(dtype=torch.float32) if "guarded" in variant.operation else None
    if variant.operation.endswith("gather"):
        adam.catch_up(state, steps, rows, found_inf)
        adam.read(state, steps, ids, up_to_date=True)
    elif variant.operation == "read":
        adam.read(state, steps, ids)
    elif variant.operation.endswith("update"):
        gradients = _empty(_GATHERED, variant.dim, dtype=torch.float32)
        adam.update(state, steps, rows, gradients, found_inf)
    else:
        adam.catch_up(state, steps, None)


def _call_dense(variant: DenseVariant) -> None:
    dim, k = variant.dim, variant.interests
    shapes: list[tuple[int, ...]] = {
        "comirec-sa": [(_HISTORY, dim), (dim, 4 * dim), (4 * dim, k)],
        "comirec-dr": [(_HISTORY, k * dim, dim)],
        "mind": [(dim, dim)],
    }[variant.model]
    kinds = ([_empty(*shape, dtype=torch.float32) for shape in shapes] for _ in range(4))
    weights = DenseWeights(*kinds, [_empty(dtype=torch.float32) for _ in shapes])
    number, found_inf = _empty(1, dtype=torch.int64), _empty(dtype=torch.float32)
    dense.update(weights, StepTable(0.9, 0.999, 1e-8), number, found_inf)


def _call_guard(variant: GuardVariant) -> None:
    dim, loss = variant.dim, _empty(variant.batch, dtype=torch.float32)
    shapes = (_HISTORY, dim), (dim, 4 * dim), (4 * dim, 4)
    made = StepMade(
        ranking=loss,
        rr=loss if variant.rr else None,
        ids=_empty(_GATHERED, dtype=torch.int64),
        gradients=_empty(_GATHERED, dim, dtype=torch.float32),
        dense=[_empty(*shape, dtype=torch.float32) for shape in shapes for _ in range(4)],
    )
    guard, step = StepGuard(1000, torch.device("meta")), _empty(1, dtype=torch.int64)
    guards.look(guard, step, made, _adam_state(dim), 12_800.0)


def _call_capsules(variant: CapsuleVariant) -> None:
    dtype, dim, k = getattr(torch, variant.dtype), variant.dim, variant.interests
    shared = variant.model == "mind"
    inputs = (
        _empty(_BATCH, variant.history, dim, dtype=dtype),
        _empty(_BATCH, dtype=torch.int64),
        _empty(*((dim, dim) if shared else (variant.history, k * dim, dim)), dtype=dtype),
        _empty(_BATCH if shared else 1, k, variant.history, dtype=dtype),
    )
    interests, routing = capsules.forward(*inputs)
    slope = routing if variant.through_routing else None
    capsules.backward(*inputs, routing, interests, slope)


def _call_batches(variant: BatchVariant) -> None:
    users = variant.users
    sequences = Sequences(
        items=_empty(_TARGETS + 4 * users, dtype=torch.int32),
        start=_empty(users, dtype=torch.int64),
        user=_empty(users, dtype=torch.int32),
        targets_before=_empty(users + 1, dtype=torch.int64),
        num_targets=_TARGETS,
        min_history=4,
    )
    batch = 2 * users if variant.sampling == "replacement" else min(_BATCH, users)
    out = Buffers.empty(batch, variant.history, "meta")
    step = _empty(1, dtype=torch.int64) if variant.step_on_device else 1
    batches.draw_batch(sequences, out, 1, step, variant.sampling == "epoch")


@contextmanager
def _precision(arithmetic: str) -> Iterator[None]:
    """torch's float32 matmul precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(ARITHMETIC[arithmetic][2])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _call_attention(variant: AttentionVariant) -> None:
    dtype, products, _ = ARITHMETIC[variant.arithmetic]
    batch, positions, dim = variant.batch, variant.history, variant.dim
    inputs = (
        _empty(batch, positions, dim, dtype=dtype),
        _empty(batch, dtype=torch.int64),
        _empty(positions, dim, dtype=dtype),
        _empty(dim, 4 * dim, dtype=dtype),
        _empty(4 * dim, variant.interests, dtype=dtype),
    )
    if variant.query:
        target = _empty(batch, dim, dtype=dtype)
        query, chosen, rr, routing, variance = attention.select(*inputs, target, products)
        slope = rr if variant.routing_gradient else None
        attention.backward(
            *inputs, routing, query, None, products, chosen=chosen, variance=variance, grad_rr=slope
        )
    else:
        interests, routing = attention.forward(*inputs, products)
        slope = routing if variant.routing_gradient else None
        attention.backward(*inputs, routing, interests, slope, products)


def _forward_and_backward(variant: Variant) -> None:
    problem, options = _problem(variant), variant.options
    tensors = _tensors(variant, problem)
    interests, target, negatives, routing, target_ids, negative_ids, importance, _ = tensors
    with_slope = "no_slope" not in options
    out = launches.forward(*tensors, None, problem, with_slope=with_slope)
    if not with_slope:
        return
    wanted = [True, problem.source != "catalogue", True, routing is not None]
    found = launches.gradients(interests, target, negatives, routing, problem, wanted)
    grad_loss = _empty(variant.batch, dtype=out.loss.dtype)
    grad_rr = None if routing is None else grad_loss
    launches.backward_rows(
        interests, routing, out.chosen, out.row_stats, out.slope, grad_loss, grad_rr, found
    )
    launches.backward_negatives(
        interests, negatives, target_ids, out.negative_ids if problem.draw else negative_ids,
        importance, out.chosen, out.row_stats, grad_loss, problem, found.negatives,
    )  # fmt: skip


def _problem(variant: Variant) -> launches.Problem:
    catalogue = variant.source == "catalogue"
    return launches.Problem(
        beta=variant.beta,
        detach_weights="detach" in variant.options,
        log_scale=1.0,
        dtype=ARITHMETIC[variant.arithmetic][1],
        source=variant.source,
        num_negatives=_ITEMS - 1 if catalogue else 10 * variant.batch,
        mask="mask" in variant.options,
        draw="draw" in variant.options,
    )


def _tensors(variant: Variant, problem: launches.Problem) -> list[Any]:
    """Interests, target, negatives, routing, their ids, importance and log q of the targets."""
    dtype, _, _ = ARITHMETIC[variant.arithmetic]
    batch, dim, count, options = variant.batch, variant.dim, problem.num_negatives, variant.options
    id_dtype = torch.int32 if "int32" in options else torch.int64
    rows, catalogue = variant.source == "rows", variant.source == "catalogue"
    interests_dtype = torch.bfloat16 if "half_interests" in options else dtype
    interests = _empty(batch, variant.interests, dim, dtype=interests_dtype)
    target = _empty(batch if rows else _ITEMS, dim, dtype=dtype)
    negatives = _empty(count, dim, dtype=dtype) if rows else target
    history = (batch, variant.interests, _HISTORY)
    routing = _empty(*history, dtype=dtype) if "routing" in options else None
    ids_given = not rows or problem.mask
    target_ids = _empty(batch, dtype=id_dtype) if ids_given else None
    negative_ids = None
    if ids_given and not catalogue and not problem.draw:
        negative_ids = _empty(count, dtype=id_dtype)
    with_q = "log_q" in options
    importance = _empty(count, dtype=torch.float32) if with_q else None
    log_q = _empty(batch, dtype=torch.float32) if with_q else None
    return [interests, target, negatives, routing, target_ids, negative_ids, importance, log_q]


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
