"""Negatives: the same ids on every backend, never the padding row."""

import math

import numpy as np
import pytest
import torch

from remi_fast.kernels.ihn_loss import ihn_loss
from remi_fast.kernels.negatives import sample_negatives
from remi_fast.kernels.permutation import permute
from remi_fast.kernels.proposal import Proposal, log_uniform
from tests.device import DEVICE


@pytest.mark.parametrize("num_items", [2, 3, 1000, 2**31, 2**32 - 1])
@pytest.mark.parametrize("num", [0, 1, 1280])
def test_backends_agree(num_items, num):
    seed = 2**63 + 5
    for step in (0, 2**31, 2**32 - 1):
        ids = sample_negatives(num, num_items, seed=seed, step=step, backend="reference")
        assert ids.dtype == torch.int64 and len(ids) == num
        assert num == 0 or (ids.min() >= 1 and ids.max() < num_items)
        for backend in ("native", "triton"):
            for word in (step, torch.tensor(step, device=DEVICE), torch.tensor([step]).to(DEVICE)):
                drawn = sample_negatives(
                    num, num_items, seed=seed, step=word, device=DEVICE, backend=backend
                )
                assert drawn.device.type == DEVICE and torch.equal(drawn.cpu(), ids)


def test_known_ids():
    """A change of the random numbers would change every run: pinned."""
    assert sample_negatives(6, 1000, seed=1, step=0).tolist() == [550, 855, 354, 399, 200, 673]
    distinct = sample_negatives(6, 1000, seed=1, step=0, replacement=False)
    assert distinct.tolist() == [140, 978, 911, 285, 523, 858]


@pytest.mark.parametrize("num_items", [2, 3, 6, 1000, 2**31, 2**32 - 1])
def test_backends_draw_alike_without_replacement(num_items):
    """Up to all items, in an order that is not the loader's of as many users."""
    num, seed = min(num_items - 1, 1280), 2**63 + 5
    for step in (0, 2**31, 2**32 - 1):
        options = {"seed": seed, "step": step, "replacement": False}
        ids = sample_negatives(num, num_items, **options, backend="reference")
        assert ids.dtype == torch.int64 and len(ids.unique()) == num
        assert ids.min() >= 1 and ids.max() < num_items
        for backend in ("native", "triton"):
            drawn = sample_negatives(num, num_items, **options, device=DEVICE, backend=backend)
            assert torch.equal(drawn.cpu(), ids)
        users = permute(np.arange(num), num_items - 1, seed=seed, step=step)
        assert num_items < 10 or ids.tolist() != (1 + users).tolist()
    step = torch.tensor(step, device=DEVICE)
    drawn = sample_negatives(
        num, num_items, **options | {"step": step}, device=DEVICE, backend="triton"
    )
    assert torch.equal(drawn.cpu(), ids)


def test_without_replacement_every_item_is_drawn_alike_and_never_twice():
    """Chi-square of how often each of n items is among N: n - 1 degrees of freedom.

    The counts vary less than with replacement: by T N (n - N) / (n (n - 1)) in each direction.
    """
    n, num, steps = 40, 12, 3000
    drawn = [sample_negatives(num, n + 1, seed=2, step=s, replacement=False) for s in range(steps)]
    assert all(len(ids.unique()) == num for ids in drawn)
    counts = torch.bincount(torch.cat(drawn), minlength=n + 1)[1:].double()
    variance = steps * num * (n - num) / (n * (n - 1))
    chi2 = (counts - steps * num / n).square().sum() / variance
    assert 14 < chi2 < 80


def test_every_item_is_drawn_and_none_more_than_others():
    ids = torch.cat([sample_negatives(2000, 11, seed=0, step=step) for step in range(20)])
    counts = torch.bincount(ids, minlength=11)
    assert counts[0] == 0
    chi2 = ((counts[1:] - 4000.0) ** 2 / 4000).sum()
    assert 0.5 < chi2 < 35  # 9 degrees of freedom


def test_function_of_seed_and_step():
    draw = [sample_negatives(50, 10**6, seed=s, step=t) for s in (0, 1) for t in (0, 1)]
    assert len({tuple(ids.tolist()) for ids in draw}) == 4
    assert torch.equal(draw[0], sample_negatives(50, 10**6, seed=0, step=0))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"sampler": "log"},
            "sampler: got 'log', expected .*uniform, log-uniform, or a Proposal",
        ),
        ({"num_items": 1}, "num_items: got .*, expected a number in"),
        ({"num": -1}, "num: got .*, expected a number in"),
        ({"step": 2**32}, "step: got .*, expected a number in"),
        ({"step": torch.tensor(-1)}, "step: got .*, expected a number in"),
        ({"step": torch.tensor([1, 2])}, r"step: got \(2,\) torch.int64"),
        ({"step": torch.tensor(1, dtype=torch.int32)}, "step: got .* torch.int32"),
        ({"seed": -1}, "seed: got .*, expected a number in"),
        ({"backend": "cuda"}, "cuda"),
        ({"num": 9, "replacement": False}, "num: got 9 without replacement, expected at most 8"),
        (
            {"sampler": "log-uniform", "replacement": False},
            "sampler: got 'log-uniform' without replacement, expected 'uniform'",
        ),
    ],
)
def test_refusals(change, message):
    arguments = {"num": 3, "num_items": 9, "seed": 0, "step": 0} | change
    with pytest.raises(ValueError, match=message):
        sample_negatives(arguments.pop("num"), arguments.pop("num_items"), **arguments)


def weights(kind, num_items):
    rank = torch.arange(num_items, dtype=torch.float64).clamp_min(1)
    return {
        "equal": torch.ones(num_items, dtype=torch.float64),
        "zipf": rank**-1.05,
        "one": (rank == 3).double(),
        "extreme": torch.where(rank % 2 == 0, 1e-12, rank),
        "some are 0": (rank % 3 == 0).double() * rank,
    }[kind]


KINDS = ["equal", "zipf", "one", "extreme", "some are 0"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_items", [4, 5, 257, 3000])
def test_an_alias_table_is_the_distribution_of_its_weights(kind, num_items):
    given = weights(kind, num_items)
    table = Proposal.of_weights(given)
    exact = given[1:] / given[1:].sum()
    q = table.log_q.double().exp()
    assert q[0] == 0 and q.sum().item() == pytest.approx(1, abs=1e-6)
    # a threshold is a multiple of 2^-32 of a column
    torch.testing.assert_close(q[1:], exact, rtol=1e-6, atol=2**-31 / num_items)
    assert (q[1:][exact == 0] == 0).all()
    assert (table.threshold >= 0).all() and (table.threshold <= 2**32).all()
    assert (table.alias >= 0).all() and (table.alias < num_items - 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_backends_draw_alike_by_a_table(kind):
    table = Proposal.of_weights(weights(kind, 1000))
    for num in (0, 1, 1280):
        for step in (0, 2**32 - 1):
            options = {"seed": 2**63 + 5, "step": step, "sampler": table}
            ids = sample_negatives(num, 1000, **options, backend="reference")
            for backend in ("native", "triton"):
                drawn = sample_negatives(num, 1000, **options, device=DEVICE, backend=backend)
                assert torch.equal(drawn.cpu(), ids)


@pytest.mark.parametrize("kind", ["zipf", "some are 0", "log-uniform"])
def test_draws_have_the_frequencies_of_q(kind):
    log_q = log_uniform(12).log_q if kind == "log-uniform" else None
    sampler = kind
    if log_q is None:
        sampler = Proposal.of_weights(weights(kind, 12))
        log_q = sampler.log_q
    ids = torch.cat(
        [sample_negatives(2000, 12, seed=3, step=step, sampler=sampler) for step in range(20)]
    )
    counts = torch.bincount(ids, minlength=12)
    expected = len(ids) * log_q.double().exp()
    assert (counts[expected == 0] == 0).all()
    drawn = expected > 0
    chi2 = ((counts[drawn] - expected[drawn]) ** 2 / expected[drawn]).sum()
    assert 0.1 < chi2 < 40  # at most 10 degrees of freedom


def test_log_uniform_is_that_of_tensorflow():
    q = log_uniform(1000).log_q.double().exp()
    rank = torch.arange(1, 1000).double()
    expected = (torch.log(rank + 1) - torch.log(rank)) / torch.log(torch.tensor(1000.0))
    torch.testing.assert_close(q[1:], expected, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize(
    "bad", [[1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")], [5.0, 0.0, 0.0], [1.0]]
)
def test_weights_that_are_no_distribution(bad):
    with pytest.raises(ValueError, match="weights: got .*expected finite numbers >= 0"):
        Proposal.of_weights(torch.tensor(bad))


def test_a_proposal_of_another_catalogue():
    with pytest.raises(ValueError, match="a Proposal of 9 items, expected 10"):
        sample_negatives(3, 10, seed=0, step=0, sampler=log_uniform(9))


def test_the_corrected_loss_is_that_of_the_whole_catalogue():
    """Self-normalised importance weights: whatever the proposal, it converges to the same."""
    generator = torch.Generator().manual_seed(0)
    items, dim = 40, 6
    table = torch.randn(items, dim, generator=generator)
    query = torch.randn(5, dim, generator=generator)
    wanted = torch.randint(1, items, (5,), generator=generator)
    for beta in (0.0, 1.0):
        scores = query.double() @ table[1:].double().T
        log_z = torch.logsumexp((1 + beta) * scores, 1) - torch.logsumexp(beta * scores, 1)
        log_z += math.log(items - 1)
        own = (query * table[wanted]).sum(1).double()
        exact = torch.nn.functional.softplus(log_z - own)
        for sampler in (log_uniform(items), Proposal.of_weights(weights("zipf", items) ** 0.5)):
            ids = sample_negatives(400_000, items, seed=1, step=0, sampler=sampler)
            loss = ihn_loss(
                query,
                table[wanted],
                table[ids],
                beta=beta,
                log_q=sampler.log_q[ids],
                log_scale=math.log(items - 1),
            )
            torch.testing.assert_close(loss.double(), exact, rtol=0.02, atol=0.02)
