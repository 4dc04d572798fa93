"""Every tensor of every launch between two pages that may not be touched; see test_memory_safety.

`python -m tests.kernels.guard_pages loss` runs the loss over odd shapes, `adam` deferred Adam,
`dense` Adam on weights that all move, `capsules` capsule routing, `batches` device batches,
`attention` the extractor, `query` the extractor that chooses, `guard` the look at a step; `control`
reads one element too many, and has to die of it.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"  # on a GPU machine, too: only the CPU has pages to guard

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch.utils._pytree import tree_leaves, tree_map

import remi_fast.functional as F
from remi_fast.kernels import (
    capsule_routing_launch,
    deferred_adam_launch,
    dense_adam_launch,
    device_batches_launch,
    ihn_loss_launch,
    negatives,
    runtime,
    self_attentive_launch,
    step_guard_launch,
)
from remi_fast.kernels.capsule_routing import capsule_routing
from remi_fast.kernels.deferred_adam_state import AdamState, StepTable
from remi_fast.kernels.dense_adam import DenseWeights, update
from remi_fast.kernels.device_batches import Buffers, Sequences, draw_batch
from remi_fast.kernels.multi_interest_ihn_loss import multi_interest_ihn_loss_rows
from remi_fast.kernels.self_attentive import self_attentive_extractor
from remi_fast.kernels.self_attentive_query import self_attentive_query
from remi_fast.kernels.step_guard import StepGuard, StepMade, look
from tests.kernels.pages import between_guards
from tests.kernels.test_capsule_routing import shape_triton as shape_capsules
from tests.kernels.test_deferred_adam import shape_triton as shape_adam
from tests.kernels.test_dense_adam import shape_triton as shape_dense
from tests.kernels.test_ihn_loss import shape_triton
from tests.kernels.test_self_attentive_triton import shape_triton as shape_attention
from tests.kernels.test_step_guard import shape_triton as shape_guard


def guarded(x, at_end):
    """A copy of x that ends right before, or starts right after, a forbidden page."""
    if x.numel() == 0:
        return x
    span = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    region, offset = between_guards(span * x.element_size(), at_end)
    elements = torch.frombuffer(region, dtype=x.dtype, count=span, offset=offset)
    return elements.as_strided(x.shape, x.stride()).copy_(x)


def guard_launches(at_end, monkeypatch):
    """Let every kernel work on guarded copies of its tensors."""

    def launch(kernel, grid, *arguments, **options):
        tensors = [x for x in tree_leaves(arguments) if isinstance(x, torch.Tensor)]
        copies = {id(x): guarded(x.detach(), at_end) for x in tensors}
        arguments = tree_map(lambda x: copies.get(id(x), x), arguments)
        runtime.launch(kernel, grid, *arguments, **options)
        for x in tensors:
            x.detach().copy_(copies[id(x)])

    for module in (
        capsule_routing_launch, deferred_adam_launch, dense_adam_launch, device_batches_launch,
        ihn_loss_launch, negatives, self_attentive_launch, step_guard_launch,
    ):  # fmt: skip
        monkeypatch.setattr(module, "launch", launch, raising=False)


def cases():
    """(batch, interests, dim, places, negatives): odd sizes, tiles of 16 that are not full."""
    for source in ("rows", "table", "drawn", "catalogue"):
        yield (1, 1, 1, 1, 1), source
        yield (3, 3, 5, 7, 21), source
    yield (17, 2, 33, 7, 16), "table"
    yield (2, 5, 16, 300, 3), "rows"


def run(sizes, source):
    """Loss and gradients of one problem."""
    batch, interests, dim, places, count = sizes
    generator = torch.Generator().manual_seed(1)
    items = count + 2
    shapes = ((batch, interests, dim), (items, dim), (batch, interests, places))
    users, table, routing = (torch.randn(s, generator=generator).requires_grad_() for s in shapes)
    target_ids = torch.randint(1, items, (batch,), generator=generator)
    negative_ids = torch.randint(1, items, (count,), generator=generator)
    options = {"routing": routing, "beta": 1.0, "backend": "triton"}
    leaves = [users, table, routing]
    log_q = {"log_q": torch.arange(count) / 9, "target_log_q": torch.arange(batch) / 9}
    if source == "rows":
        target, rows = (
            torch.randn(n, dim, generator=generator).requires_grad_() for n in (batch, count)
        )
        ids = {"target_ids": target_ids, "negative_ids": negative_ids}
        leaves = [users, target, rows, routing]
        loss, _, rr = multi_interest_ihn_loss_rows(users, target, rows, **options, **ids)
    elif source == "table":
        ids = (target_ids.int(), table, negative_ids.int())
        loss, _, rr = F.multi_interest_ihn_loss(users, *ids, mask_hits=True, **options, **log_q)
    elif source == "drawn":
        draw = {"num_negatives": count, "step": torch.tensor(3)}
        loss, _, rr = F.multi_interest_ihn_loss(users, target_ids, table, **draw, **options)
    else:
        loss, _, rr = F.full_catalogue_ihn_loss(users, target_ids, table, **options)
    weights = torch.linspace(1, 2, 2 * batch)[::2]  # a gradient with a stride
    return loss, rr, *torch.autograd.grad([loss, rr], leaves, [weights, weights])


def adam_cases():
    """(rows, dim), ids: some outside the table, in chunks of 4 and blocks of 8 rows or fewer."""
    yield (3, 1), [1]
    yield (9, 5), [8, 8, 8, 8, 8, 8, 0, 3, 8, -1, 9, 2**40, -(2**40)]
    yield (17, 33), [16, 0, 1, 1]
    yield (8, 16), [7] * 40


def run_adam(sizes, ids):
    """What is read, and the state, after a step, missed steps and another."""
    state = AdamState(*(torch.ones(sizes) for _ in range(3)), torch.ones(sizes[0]).int())
    table, ids = StepTable(0.9, 0.999, 1e-8), torch.tensor(ids)
    rows = deferred_adam_launch.sort_ids(ids, sizes[0])
    read, found_inf = [], torch.zeros(())
    for missed in (1, 7, 1):
        for _ in range(missed):
            table.advance(1e-3)
        deferred_adam_launch.catch_up(state, table, rows)
        read.append(deferred_adam_launch.read(state, table, ids, up_to_date=True).nan_to_num(7))
        gradients = torch.ones(len(ids), sizes[1])
        deferred_adam_launch.update(state, table, rows, gradients, found_inf)
        read.append(deferred_adam_launch.read(state, table, ids).nan_to_num(7))
    table.advance(1e-3)
    deferred_adam_launch.catch_up(state, table, None)
    return *read, *vars(state).values()


def dense_cases():
    """Sizes of the weights; whether the step is held, which reads the first of the step sizes."""
    for held in (False, True):
        yield (1,), held
        yield (31, 0, 32, 33, 100), held
        yield (0,), held


def run_dense(sizes, held):
    """Weights, moments and numbers of steps, after one of which the step sizes end."""
    table = StepTable(0.9, 0.999, 1e-8)
    for _ in range(3):
        table.advance(1e-3)
    for name in ("step_size", "inv_sqrt_correction"):
        setattr(table, name, getattr(table, name)[:4])
    kinds = [[torch.ones(size) for size in sizes] for _ in range(4)]
    weights = DenseWeights(*kinds, [torch.zeros(()) for _ in sizes])
    number = torch.tensor([9 if held else 2])
    update(weights, table, number, found_inf=torch.tensor(float(held)), backend="triton")
    return [x for kind in weights for x in kind]


def capsule_cases():
    """(users, interests, positions, dim), whether the matrix is shared: tiles that are not full."""
    for shared in (True, False):
        yield (1, 1, 1, 1), shared
        yield (2, 2, 9, 5), shared
        yield (1, 2, 3, 17), shared


def run_capsules(sizes, shared):
    """Interests, routing and gradients of one problem."""
    users, interests, positions, dim = sizes
    generator = torch.Generator().manual_seed(1)
    matrix = (dim, dim) if shared else (positions, interests * dim, dim)
    shapes = ((users, positions, dim), matrix, (users, interests, positions))
    history, weight, logits = (torch.randn(s, generator=generator) for s in shapes)
    leaves = history.requires_grad_(), weight.requires_grad_()
    length = torch.arange(positions, positions - users, -1)
    results = capsule_routing(
        history, length, weight, logits, through_routing=True, backend="triton"
    )
    return *results, *torch.autograd.grad(results, leaves, [torch.ones_like(x) for x in results])


def attention_cases():
    """(users, positions, dim), (hidden units, interests): tiles that are not full."""
    yield (1, 1, 1), (1, 1)
    yield (7, 5, 6), (20, 3)
    yield (2, 18, 17), (17, 16)


def attention_inputs(sizes, layers):
    """Histories and layers, which have gradients, and lengths."""
    users, places, dim = sizes
    generator = torch.Generator().manual_seed(1)
    shapes = sizes, (places, dim), (dim, layers[0]), layers
    leaves = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    return leaves, (torch.arange(users) + places - 1) % (places + 1)


def run_attention(sizes, layers):
    """Interests, routing and gradients of one problem."""
    leaves, length = attention_inputs(sizes, layers)
    results = self_attentive_extractor(leaves[0], length, *leaves[1:], backend="triton")
    return *results, *torch.autograd.grad(results, leaves, [torch.ones_like(x) for x in results])


def run_query(sizes, layers):
    """Query, choice, RR and gradients of one problem."""
    leaves, length = attention_inputs(sizes, layers)
    target = torch.linspace(-1, 1, sizes[0] * sizes[2]).view(sizes[0], sizes[2])
    results = self_attentive_query(leaves[0], length, *leaves[1:], target, backend="triton")
    used = [results[0], results[2]]
    return *results, *torch.autograd.grad(used, leaves, [torch.ones_like(x) for x in used])


def batch_cases():
    """Lengths of the sequences, batch and history; whether an epoch: the first and last items."""
    for every_target_once in (False, True):
        yield ((5,), 1, 1), every_target_once
        yield ((3, 9, 2, 5, 3, 40), 33, 37), every_target_once  # five users with a target
        yield ((3, 4, 3), 2, 1), every_target_once


def run_batches(sizes, every_target_once):
    """Some batches; there are no items but those of users."""
    lengths, batch, width = sizes
    ends = np.cumsum(lengths)
    spans = np.stack([ends - lengths, ends], axis=1)
    items, users = np.arange(1, ends[-1] + 1, dtype=np.int32), np.arange(len(lengths)).astype("i4")
    sequences = Sequences.upload(items, users, spans, min_history=2, device="cpu")
    drawn = []
    for step in range(2):
        drawn += Buffers.empty(batch, width, "cpu")
        draw_batch(
            sequences, Buffers(*drawn[-4:]), seed=1, step=torch.tensor(step),
            every_target_once=every_target_once, backend="triton",
        )  # fmt: skip
    return drawn


def guard_cases():
    """Samples, ids, dimension and sizes of the dense tensors; the last row is among the ids."""
    yield 1, [1], 1, (1,)
    yield 33, [8, 0, -1, 9, 8, 3, 8], 5, (31, 33, 0, 64)
    yield 3, [8] * 40, 33, ()


def run_guard(batch, ids, dim, sizes):
    """Flags and losses, of finite numbers and not."""
    results = []
    for last in (1.0, torch.inf):
        state = AdamState(*(torch.ones(9, dim) for _ in range(3)), torch.ones(9).int())
        guard = StepGuard(3, torch.device("cpu"))
        gradients, losses = torch.ones(len(ids), dim), torch.ones(batch)
        gradients[-1, -1] = last
        dense = [torch.ones(size) for size in sizes]
        made = StepMade(losses, losses.clone(), torch.tensor(ids), gradients, dense)
        look(guard, torch.tensor([5]), made, state, rr_weight=2.0, backend="triton")
        results += [guard.found_inf, guard.increment, guard.losses]
    return results


def run_all(cases, run):
    for case in cases():
        results = []
        for at_end in (True, False):
            print(*case, "end" if at_end else "start", flush=True)  # noqa: T201
            with pytest.MonkeyPatch.context() as patch:
                guard_launches(at_end, patch)
                results.append(run(*case))
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)


@triton.jit
def _sum_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    tl.store(out_ptr, tl.sum(tl.load(x_ptr + index, mask=index <= n, other=0.0)))  # one too many


def control():
    with pytest.MonkeyPatch.context() as patch:
        guard_launches(True, patch)
        print("reading too much", flush=True)  # noqa: T201
        ihn_loss_launch.launch(_sum_kernel, (1,), torch.ones(5), torch.empty(1), 5, BLOCK=8)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as tiles:
        shape_triton(tiles)
        shape_adam(tiles)
        shape_dense(tiles)
        shape_capsules(tiles)
        shape_attention(tiles)
        shape_guard(tiles)
        if sys.argv[1] == "control":
            control()
        else:
            kinds = {
                "loss": (cases, run),
                "adam": (adam_cases, run_adam),
                "dense": (dense_cases, run_dense),
                "capsules": (capsule_cases, run_capsules),
                "attention": (attention_cases, run_attention),
                "query": (attention_cases, run_query),
                "batches": (batch_cases, run_batches),
                "guard": (guard_cases, run_guard),
            }
            run_all(*kinds[sys.argv[1]])
    print("done", flush=True)  # noqa: T201
