"""Which interest is trained: BaM's soft selection."""

import pytest
import torch

from remi_fast.config import LossConfig
from remi_fast.kernels.reference import routing_regularizer, select_interest
from remi_fast.training.objective import Objective, soft_selection

B, K, D = 400, 4, 6


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(6)
    interests = torch.randn(1, K, D, generator=generator).expand(B, K, D)  # of one user, B times
    return interests, torch.randn(1, D, generator=generator).expand(B, D)


@pytest.mark.parametrize("tau", [0.0, 0.5, 2.0])
def test_interests_are_drawn_by_the_softmax_of_their_scores(inputs, tau):
    """Chi-square of 3 degrees of freedom."""
    counts = torch.zeros(K)
    for step in range(50):
        query, chosen = soft_selection(*inputs, tau=tau, seed=3, step=step)
        assert torch.equal(query, inputs[0][torch.arange(B), chosen])
        counts += torch.bincount(chosen, minlength=K)
    expected = 50 * B * torch.softmax(tau * inputs[0][0] @ inputs[1][0], 0)
    assert 0.02 < ((counts - expected) ** 2 / expected).sum() < 25


def test_a_sharp_choice_is_the_nearest(inputs):
    query, chosen = soft_selection(*inputs, tau=1e4, seed=3, step=1)
    nearest, expected = select_interest(*inputs)
    assert torch.equal(chosen, expected) and torch.equal(query, nearest)


def test_it_is_a_function_of_seed_and_step(inputs):
    drawn = {
        tuple(soft_selection(*inputs, tau=1.0, seed=seed, step=step)[1].tolist())
        for seed in (0, 1)
        for step in (0, 1, 0)
    }
    assert len(drawn) == 4


@pytest.mark.parametrize("name, beta", [("ihn", 1.0), ("gbce", 0.0)])
def test_only_the_drawn_interest_learns_and_rr_is_of_all(inputs, name, beta):
    interests = inputs[0].clone().requires_grad_()
    routing = torch.rand(B, K, 7)
    loss = LossConfig(name=name, beta=beta, selection="soft", selection_tau=0.0)
    objective = Objective(loss, 50, seed=3)
    masks = {"target_ids": None, "negative_ids": None}
    ranking, rr = objective(4, interests, inputs[1], torch.randn(9, D), routing, **masks)
    ranking.sum().backward()
    _, chosen = soft_selection(*inputs, tau=0.0, seed=3, step=4)
    learns = interests.grad.abs().sum(dim=2) > 0
    assert torch.equal(learns, torch.nn.functional.one_hot(chosen, K).bool())
    torch.testing.assert_close(rr, routing_regularizer(routing, D))
