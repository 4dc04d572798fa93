"""Dynamic routing against the formula, element by element, and its gradients in float64."""

import numpy as np
import pytest
import torch

from remi_fast.kernels import reference
from remi_fast.kernels.capsule_routing import capsule_routing

BACKENDS = ["native", "reference"]


def make(batch, interests, positions, dim, *, shared=False, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    votes = torch.randn(batch, 1 if shared else interests, positions, dim, generator=generator)
    length = torch.randint(1, positions + 1, (batch,), generator=generator)
    logits = torch.randn(batch, interests, positions, generator=generator)
    return votes.to(dtype), length, logits.to(dtype)


def one_by_one(votes, length, logits):
    """The published loop in NumPy, a user and an interest at a time."""
    votes, logits = votes.numpy(), logits.numpy().copy()
    batch, positions, dim = len(votes), votes.shape[2], votes.shape[3]
    interests = np.zeros((batch, logits.shape[1], dim))
    routing = np.zeros((batch, logits.shape[1], positions))
    for b in range(batch):
        for k in range(logits.shape[1]):
            mine = votes[b, k if votes.shape[1] > 1 else 0]
            z = logits[b if len(logits) > 1 else 0, k].copy()
            for _ in range(3):
                c = np.exp(z - z.max())
                c /= c.sum()
                c[int(length[b]) :] = 0
                s = c @ mine
                norm = np.sqrt(s @ s)
                v = s * norm / (1 + s @ s)
                z[: int(length[b])] += mine[: int(length[b])] @ v
            interests[b, k], routing[b, k] = v, c
    return interests, routing


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 4, 7, 5), (5, 2, 20, 16)])
def test_matches_the_published_loop(shape, shared, backend):
    votes, length, logits = make(*shape, shared=shared)
    for given in (logits, logits[:1]):
        found = capsule_routing(votes, length, given, through_routing=False, backend=backend)
        for mine, expected in zip(found, one_by_one(votes, length, given), strict=True):
            np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [False, True])
def test_as_published_the_routing_is_constant(shared, backend):
    votes, length, logits = make(3, 2, 5, 4, shared=shared)
    votes.requires_grad_()
    interests, routing = capsule_routing(
        votes, length, logits, through_routing=False, backend=backend
    )
    assert not routing.requires_grad
    direction = torch.randn(interests.shape, generator=torch.Generator().manual_seed(1)).double()
    (interests * direction).sum().backward()
    again = votes.detach().clone().requires_grad_()
    mixed = (routing[..., None] * again).sum(dim=2)
    squashed = mixed * mixed.norm(dim=2, keepdim=True)
    squashed = squashed / (1 + mixed.square().sum(dim=2, keepdim=True))
    (squashed * direction).sum().backward()
    torch.testing.assert_close(votes.grad, again.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("through_routing", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_backends_agree_in_their_gradients(shared, through_routing):
    inputs = make(4, 3, 6, 5, shared=shared)
    gradients = []
    for backend in BACKENDS:
        votes = inputs[0].clone().requires_grad_()
        interests, routing = capsule_routing(
            votes, *inputs[1:], through_routing=through_routing, backend=backend
        )
        rr = reference.routing_regularizer(routing, 5)
        (interests.sin().sum() + 100 * rr.sum()).backward()
        gradients.append(votes.grad)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rr_reaches_the_votes_through_the_last_update(backend):
    votes, length, logits = make(3, 2, 6, 4)
    length[:] = 6

    def last_update(x):
        """Only what the extension lets the gradient through: the first update is constant."""
        with torch.no_grad():
            first = x_first @ torch.eye(4, dtype=x.dtype)
            middle = logits + (first * _squashed(logits, first)[:, :, None]).sum(dim=3)
        moved = middle + (x * _squashed(middle, x)[:, :, None]).sum(dim=3)
        return reference.routing_regularizer(torch.softmax(moved, dim=2), 4).sum()

    x_first = votes.clone()
    leaf = votes.clone().requires_grad_()
    _, routing = capsule_routing(leaf, length, logits, through_routing=True, backend=backend)
    reference.routing_regularizer(routing, 4).sum().backward()
    other = votes.clone().requires_grad_()
    last_update(other).backward()
    assert leaf.grad.abs().max() > 0
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-9, atol=1e-13)


def _squashed(logits, votes):
    mixed = (torch.softmax(logits, dim=2)[..., None] * votes).sum(dim=2)
    square = mixed.square().sum(dim=2, keepdim=True)
    return mixed * square.sqrt() / (1 + square)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("through_routing", [False, True])
def test_padding_counts_for_nothing_and_an_empty_history_is_zero(backend, through_routing):
    votes, length, logits = make(4, 3, 6, 5, dtype=torch.float32)
    length[1], length[2] = 0, 2
    votes[1] = torch.nan
    votes[2, :, 2:] = torch.inf
    votes.requires_grad_()
    interests, routing = capsule_routing(
        votes, length, logits, through_routing=through_routing, backend=backend
    )
    assert (interests[1] == 0).all() and (routing[1] == 0).all()
    assert interests.isfinite().all() and (routing[2, :, 2:] == 0).all()
    (interests.sum() + (routing.sum() if through_routing else 0)).backward()
    assert votes.grad.isfinite().all() and (votes.grad[2, :, 2:] == 0).all()


def test_float32_error_budget():
    """No more than twice the reference's own error. Longer votes are left out: iterated, the
    softmax of large logits blows up whichever rounding comes first, in both alike."""
    for scale in (0.1, 1.0):
        votes, length, logits = make(32, 4, 20, 16, dtype=torch.float32)
        single = (scale * votes, length, logits)
        double = (single[0].double(), length, logits.double())
        exact = capsule_routing(*double, through_routing=False, backend="reference")
        eager = capsule_routing(*single, through_routing=False, backend="reference")
        ours = capsule_routing(*single, through_routing=False, backend="native")
        for e, o, r in zip(exact, ours, eager, strict=True):
            budget = 2 * (r - e).abs().max() + torch.finfo(torch.float32).eps * e.abs().max()
            assert (o - e).abs().max() <= budget
