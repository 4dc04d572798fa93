"""Which negatives a step trains on, and how probable each was."""

import math

import pytest
import torch

import remi_fast.functional as F
from remi_fast import api
from remi_fast.config import Config, LossConfig, ModelConfig, TrainConfig
from remi_fast.errors import DataError
from remi_fast.kernels.ihn_loss import ihn_loss
from remi_fast.kernels.multi_interest_ihn_loss import multi_interest_ihn_loss_rows
from remi_fast.kernels.negatives import sample_negatives
from remi_fast.models.recommender import make_model
from remi_fast.training.candidates import Candidates
from remi_fast.training.step import TrainingStep

ITEMS, N = 50, 30
SAMPLERS = ["uniform", "log-uniform", "popularity", "in-batch", "mixed", "full"]


@pytest.fixture
def counts():
    counts = torch.randint(0, 40, (ITEMS,), generator=torch.Generator().manual_seed(1)).float()
    counts[:3] = torch.tensor([0.0, 39.0, 7.0])
    return counts


def make(sampler, counts, **options):
    loss = LossConfig(**{"sampler": sampler, "num_negatives": N} | options)
    return Candidates(loss, ITEMS, seed=3, counts=counts)


def test_uniform_ids_need_no_correction(counts):
    ids, log_q = make("uniform", None)(7, torch.tensor([1, 2]))
    assert torch.equal(ids, sample_negatives(N, ITEMS, seed=3, step=7)) and log_q is None


def test_without_replacement_no_item_comes_twice():
    ids, log_q = make("uniform", None, replacement=False)(7, torch.tensor([1, 2]))
    assert log_q is None and len(ids.unique()) == N
    expected = sample_negatives(N, ITEMS, seed=3, step=7, replacement=False)
    assert torch.equal(ids, expected)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_popularity_is_to_a_power_and_what_never_occurred_is_not_drawn(counts, alpha):
    candidates = make("popularity", counts, sampler_alpha=alpha)
    seen = torch.cat([candidates(step, torch.tensor([1]))[0] for step in range(300)])
    q = torch.where(counts > 0, counts**alpha, 0.0)
    q = q / q.sum()
    frequencies = torch.bincount(seen, minlength=ITEMS) / len(seen)
    assert (frequencies[q == 0] == 0).all()
    assert (frequencies - q).abs().max() < 5 * (q.max() / len(seen)).sqrt()
    ids, log_q = candidates(0, torch.tensor([1]))
    torch.testing.assert_close(log_q.exp(), q[ids], rtol=1e-5, atol=1e-9)


def test_in_batch_takes_the_targets(counts):
    target = torch.tensor([1, 2, 1], dtype=torch.int32)
    ids, log_q = make("in-batch", counts)(0, target)
    assert ids.tolist() == [1, 2, 1]
    torch.testing.assert_close(log_q.exp(), (counts / counts.sum())[ids], rtol=1e-5, atol=0)


def test_mixed_takes_both_and_their_mixture(counts):
    target = torch.tensor([1, 2, 1, 2, 2])
    ids, log_q = make("mixed", counts)(4, target)
    assert torch.equal(ids[:N], sample_negatives(N, ITEMS, seed=3, step=4))
    assert torch.equal(ids[N:], target)
    popular = (counts / counts.sum())[ids]
    expected = (len(target) * popular + N / (ITEMS - 1)) / (N + len(target))
    torch.testing.assert_close(log_q.exp(), expected, rtol=1e-5, atol=0)


def test_full_is_every_item_once_at_every_step():
    candidates = make("full", None)
    for step in (0, 5):
        ids, log_q = candidates(step, torch.tensor([1, 2, 1]))
        assert ids.tolist() == list(range(1, ITEMS)) and log_q is None


@pytest.mark.parametrize("sampler", ["log-uniform", "popularity", "in-batch", "mixed"])
def test_the_corrected_loss_tends_to_that_of_all_candidates(counts, sampler):
    """Self-normalised weights undo the proposal (over the items that it can draw)."""
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(ITEMS, 4, generator=generator)
    query, own = torch.randn(2, 3, 4, generator=generator)
    loss = LossConfig(sampler=sampler, num_negatives=200_000)
    candidates = Candidates(loss, ITEMS, seed=1, counts=counts)
    by_popularity = torch.multinomial(counts, 200_000, True, generator=generator)
    ids, log_q = candidates(0, by_popularity)
    possible = torch.arange(1, ITEMS)
    if sampler in ("popularity", "in-batch"):
        possible = possible[counts[1:] > 0]
    found, expected = (
        ihn_loss(query, own, table[i], beta=1.0, log_q=q, log_scale=3.0)
        for i, q in ((ids, log_q), (possible, None))
    )
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("sampler", ["uniform", "log-uniform", "popularity", "mixed"])
def test_draws_have_the_frequencies_of_their_q(counts, sampler):
    """Chi-square over all items; of `mixed` with targets that come by popularity, as they do."""
    candidates = make(sampler, counts)
    generator = torch.Generator().manual_seed(5)
    q, drawn = torch.zeros(ITEMS).double(), torch.zeros(ITEMS)
    for step in range(800):
        ids, log_q = candidates(step, torch.multinomial(counts, 20, True, generator=generator))
        q[ids] = log_q.double().exp() if log_q is not None else 1 / (ITEMS - 1)
        drawn += torch.bincount(ids, minlength=ITEMS)
    assert q.sum().item() == pytest.approx(1, abs=1e-5), "every item that has a q was drawn"
    expected = q * drawn.sum()
    assert not drawn[q == 0].any()
    chi2 = ((drawn - expected) ** 2 / expected)[q > 0].sum()
    assert 18 < chi2 < 95  # up to 48 degrees of freedom


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize(
    "options",
    [{"sampler": s} for s in SAMPLERS[:-1]] + [{"replacement": False}],
    ids=lambda options: options.get("sampler", "distinct"),
)
def test_with_more_negatives_the_loss_tends_to_that_of_the_catalogue(options, beta):
    """Root mean square of what is between the two: it falls as 1 / sqrt(N), by sqrt(10) a time.

    In a catalogue of 1001 items, and with its row's target left out.
    """
    items, times = 1001, 40
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(items, 4, generator=generator) / 2
    interests, target = torch.randn(6, 1, 4, generator=generator) / 2, torch.arange(1, 7)
    popularity = 1 / torch.arange(items).clamp_min(1) ** 0.5
    popularity[0] = 0
    exact, _ = F.full_catalogue_ihn_loss(interests, target, table, beta=beta)
    errors = []
    for number in (10, 100, 1000):
        loss = LossConfig(num_negatives=number, **options)
        candidates = Candidates(loss, items, seed=1, counts=popularity)
        squares = 0.0
        for step in range(times):
            by_popularity = torch.multinomial(popularity, number, True, generator=generator)
            ids, log_q = candidates(step, by_popularity)
            found = ihn_loss(
                interests[:, 0],
                table[target],
                table[ids],
                beta=beta,
                log_q=log_q,
                log_scale=math.log(items - 2),
                target_ids=target,
                negative_ids=ids,
            )
            squares += (found - exact).square().mean() / times
        errors.append(float(squares) ** 0.5)
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.1
    if "replacement" in options:  # these were all items
        assert errors[2] < 1e-5


@pytest.mark.parametrize("replacement", [True, False])
def test_z_of_uniform_negatives_is_unbiased_and_varies_as_documented(replacement):
    """At beta 0: mean and variance over many steps of Z = (I - 1) mean(exp(s))."""
    number, steps = 20, 4000
    table = torch.randn(ITEMS, 3, generator=torch.Generator().manual_seed(4))
    query, nothing = torch.ones(1, 3), torch.zeros(1, 3)
    candidates = make("uniform", None, replacement=replacement, num_negatives=number)
    z = torch.stack(
        [
            ihn_loss(
                query, nothing, table[candidates(step, nothing)[0]], beta=0.0,
                log_scale=math.log(ITEMS - 1),
            ).expm1()
            for step in range(steps)
        ]
    ).double()  # fmt: skip
    terms = (table[1:] @ query[0]).double().exp()
    variance = (ITEMS - 1) ** 2 * terms.var(correction=0) / number
    if not replacement:
        variance *= (ITEMS - 1 - number) / (ITEMS - 2)
    assert (z.mean() - terms.sum()).abs() < 4 * (variance / steps).sqrt()
    assert z.var().item() == pytest.approx(variance.item(), rel=0.1)


def test_samplers_that_need_counts_say_so():
    for counts in (None, torch.zeros(ITEMS)):
        with pytest.raises(DataError, match="'popularity': got no counts"):
            make("popularity", counts)


@pytest.mark.parametrize("sampler", ["popularity", "mixed"])
def test_a_step_trains_on_the_candidates_as_they_were_drawn(counts, sampler):
    loss = LossConfig(sampler=sampler, num_negatives=N, rr_lambda=1.0)
    config = Config(model=ModelConfig(dim=8, num_interests=2, max_history=5), loss=loss)
    model = make_model(config.model, ITEMS, seed=1)
    step = TrainingStep(model, config, counts)
    history, length = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 0, 0, 0]]), torch.tensor([5, 2])
    target = torch.tensor([1, 2])
    ids, log_q = step.candidates(4, target)
    interests, routing = model.extractor(model.read(history.flatten()).view(2, 5, 8), length)
    masked = {"target_ids": target, "negative_ids": ids} if sampler == "mixed" else {}
    ihn, _, rr = multi_interest_ihn_loss_rows(
        interests, model.read(target), model.read(ids), routing, beta=1.0, log_q=log_q, **masked
    )
    found = step(4, history, length, target)
    assert (found.ranking, found.rr) == pytest.approx(
        (ihn.mean().item(), rr.mean().item()), rel=1e-5
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_trains(sampler, dataset, tmp_path):
    config = Config(
        model=ModelConfig(dim=8, num_interests=2, max_history=5),
        loss=LossConfig(sampler=sampler, num_negatives=N, rr_lambda=1.0),
        train=TrainConfig(batch_size=16, steps=20, eval_every=20),
    )
    result = api.train(dataset.path, tmp_path / "run", config)
    assert result["train"]["steps"] == 20 and result["test"]["recall@50"] > 0
