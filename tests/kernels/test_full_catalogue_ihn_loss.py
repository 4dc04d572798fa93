"""The loss against the whole catalogue, in Triton and tiled, against formulas written out here."""

import math

import pytest
import torch

import remi_fast.functional as F
from remi_fast.kernels import ihn_loss_tiled
from tests.device import DEVICE
from tests.kernels.errors import with_gradients
from tests.kernels.test_ihn_loss import poisoned_memory, shape_triton
from tests.kernels.test_multi_interest_ihn_loss import make

BACKENDS = ["native", "reference", "triton"]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(ihn_loss_tiled, "TILE_ELEMENTS", 70)
    shape_triton(monkeypatch)
    with poisoned_memory():
        yield


def ideal(interests, table, targets, beta):
    """Row by row: every item but padding and target, weighed by exp(beta s)."""
    losses = []
    for user, target in zip(interests, targets.tolist(), strict=True):
        query = user[(user @ table[target]).argmax()]
        scores = torch.stack([table[j] @ query for j in range(1, len(table)) if j != target])
        log_z = ((1 + beta) * scores).logsumexp(0) - (beta * scores).logsumexp(0)
        log_z = log_z + math.log(len(scores))
        losses.append(torch.nn.functional.softplus(log_z - query @ table[target]))
    return torch.stack(losses)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("beta", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("batch, items", [(5, 70), (18, 3)])
def test_matches_the_ideal_distribution(backend, beta, batch, items):
    floats, targets = make(batch, 3, 6, items, 4)

    def ours(interests, table, routing):
        loss, _, rr = F.full_catalogue_ihn_loss(
            interests, targets, table, beta=beta, routing=routing, backend=backend
        )
        return loss, rr

    def truth(interests, table, routing):
        return ideal(interests, table, targets, beta), F.routing_regularizer(routing, 6)

    for mine, true in zip(with_gradients(ours, floats), with_gradients(truth, floats), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_beta_zero_is_the_full_softmax(backend):
    (interests, table, _), targets = make(7, 1, 6, 70, 4)
    loss, _ = F.full_catalogue_ihn_loss(interests, targets, table, beta=0.0, backend=backend)
    logits = interests[:, 0] @ table[1:].T
    plain = torch.nn.functional.cross_entropy(logits, targets - 1, reduction="none")
    torch.testing.assert_close(loss, plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sampled_loss_converges_to_it(monkeypatch, backend):
    monkeypatch.undo()  # many negatives want large tiles
    (interests, table, _), targets = make(4, 1, 6, 30, 4)
    ideal_loss, _ = F.full_catalogue_ihn_loss(interests, targets, table, beta=0.5, backend=backend)
    ids = F.sample_negatives(200_000, 30, seed=1, step=0).to(DEVICE)
    sampled, _ = F.multi_interest_ihn_loss(
        interests, targets, table, ids, beta=0.5, mask_hits=True, log_scale=math.log(28)
    )
    torch.testing.assert_close(sampled, ideal_loss, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_has_no_part_and_detached_weights(backend):
    (interests, table, _), targets = make(5, 2, 6, 40, 4)
    table = table.requires_grad_()
    loss, _ = F.full_catalogue_ihn_loss(
        interests, targets, table, beta=1.0, detach_weights=True, backend=backend
    )
    loss.sum().backward()
    assert (table.grad[0] == 0).all() and (table.grad[1:].abs().sum(dim=1) > 0).all()
    with torch.no_grad():
        table[0] = 1e6
    again, _ = F.full_catalogue_ihn_loss(interests, targets, table, beta=1.0, backend=backend)
    assert torch.equal(loss, again)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_catalogue_of_the_target_alone(backend):
    (interests, table, _), _ = make(2, 2, 6, 2, 4)
    targets = torch.ones(2, dtype=torch.long, device=DEVICE)
    loss, _ = F.full_catalogue_ihn_loss(interests, targets, table, beta=1.0, backend=backend)
    assert loss.tolist() == [0, 0]
    with pytest.raises(ValueError, match="item_table: got 1 rows"):
        F.full_catalogue_ihn_loss(interests, targets, table[:1], beta=1.0, backend=backend)
