"""Training steps against plain PyTorch: dense Adam, autograd, the formulas of the reference."""

import pytest
import torch

from remi_fast.config import Config, LossConfig, ModelConfig, OptimConfig, TrainConfig
from remi_fast.kernels import reference
from remi_fast.kernels.negatives import sample_negatives
from remi_fast.kernels.philox import SELECTION, random_words
from remi_fast.models.recommender import make_model
from remi_fast.training.step import TrainingStep

ITEMS, DIM, STEPS, RATE, SEED = 40, 6, 12, 0.01, 1  # Config's seed
PARAMETERS = ("positions", "w1", "w2")


def batches():
    generator = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        length = torch.randint(1, 6, (9,), generator=generator)
        history = torch.randint(1, ITEMS, (9, 5), generator=generator)
        history[torch.arange(5) >= length[:, None]] = 0
        yield history, length, torch.randint(1, ITEMS, (9,), generator=generator)


def whole_catalogue(query, table, target, beta):
    """The full softmax; with beta > 0 the ideal distribution, row by row."""
    scores = query @ table[1:].T
    if beta == 0:
        return torch.nn.functional.cross_entropy(scores, target - 1, reduction="none")
    losses = []
    for row, own in zip(scores, target - 1, strict=True):
        others = torch.cat([row[:own], row[own + 1 :]])
        hard = (torch.softmax(beta * others, 0) * others.exp()).sum() * len(others)
        losses.append(torch.log(row[own].exp() + hard) - row[own])
    return torch.stack(losses)


def drawn(interests, target, tau, step):
    """One interest a row, by inversion of the distribution function."""
    words = random_words(range(len(target)), step, SELECTION, SEED)[:, 0]
    rows = []
    for user, own, word in zip(interests, target, words, strict=True):
        weights = (tau * user @ own).exp().tolist()
        shares = [weight / sum(weights) for weight in weights]
        before = [sum(shares[: k + 1]) for k in range(len(shares))]
        rows.append(user[next(k for k, end in enumerate(before) if (word + 0.5) / 2**32 < end)])
    return torch.stack(rows)


def gbce(query, table, target, negatives, loss):
    """As published, but for hits."""
    rate = loss.num_negatives / (ITEMS - 2)
    weight = rate * (loss.gbce_t * (1 - 1 / rate) + 1 / rate)
    positive = weight * torch.sigmoid((query * table[target]).sum(1)).log()
    negative = (1 - torch.sigmoid(query @ table[negatives].T)).log()
    misses = negatives != target[:, None] if loss.mask_hits else torch.ones_like(negative)
    return -(positive + (negative * misses).sum(1)) / (1 + misses.sum(1))


def plain_steps(model, loss, rate):
    """Losses, item table and extractor's parameters of the same steps in float64."""
    table, *parameters = (
        x.detach().double().clone().requires_grad_()
        for x in (model.table.weight, *(getattr(model.extractor, name) for name in PARAMETERS))
    )
    optimizer = torch.optim.Adam([table, *parameters], lr=RATE)
    losses = []
    for step, (history, length, target) in enumerate(batches()):
        negatives = sample_negatives(loss.num_negatives, ITEMS, seed=SEED, step=step)
        interests, routing = reference.self_attentive_extractor(table[history], length, *parameters)
        if loss.selection == "hard":
            query, _ = reference.select_interest(interests, table[target])
        else:
            query = drawn(interests, table[target], loss.selection_tau, step)
        masks = {"target_ids": target, "negative_ids": negatives} if loss.mask_hits else {}
        if loss.name == "gbce":
            ihn = gbce(query, table, target, negatives, loss)
        elif loss.sampler == "full":
            ihn = whole_catalogue(query, table, target, loss.beta)
        else:
            ihn = reference.ihn_loss(
                query,
                table[target],
                table[negatives],
                beta=loss.beta * min(step / loss.beta_warmup, 1) if loss.beta_warmup else loss.beta,
                detach_weights=loss.detach_weights,
                **masks,
            )
        rr = reference.routing_regularizer(routing, DIM)
        total = ihn.mean() + 128 * loss.rr_lambda * rr.mean()
        optimizer.zero_grad()
        total.backward()
        table.grad[0] = 0  # padding is frozen
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.step()
        losses.append([total.item(), ihn.mean().item(), rr.mean().item()])
    return losses, [table, *parameters]


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.3, "rr_lambda": 0.5},
        {"beta": 0.3, "rr_lambda": 0.5, "detach_weights": True},
        {"beta": 2.0, "rr_lambda": 0.0, "mask_hits": True},
        {"beta": 2.0, "rr_lambda": 0.0, "beta_warmup": 7},
        {"sampler": "full", "beta": 0.0},
        {"sampler": "full", "beta": 0.7, "rr_lambda": 0.5},
        {"selection": "soft", "selection_tau": 2.0, "beta": 0.3, "rr_lambda": 0.5},
        {"name": "gbce", "beta": 0.0, "rr_lambda": 0.5},
        {"name": "gbce", "beta": 0.0, "gbce_t": 0.3, "mask_hits": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_steps_are_those_of_plain_pytorch(options):
    compare_with_plain_pytorch(LossConfig(num_negatives=15, **options))


def compare_with_plain_pytorch(loss, **optim):
    config = Config(
        model=ModelConfig(dim=DIM, num_interests=3, max_history=5),
        loss=loss,
        optim=OptimConfig(lr=RATE, **optim),
        train=TrainConfig(steps=STEPS),
    )
    model = make_model(config.model, ITEMS, seed=SEED)
    losses, expected = plain_steps(model, loss, lambda step: config.optim.lr_at(step, STEPS))
    step = TrainingStep(model, config)
    mine = [step(number, *batch) for number, batch in enumerate(batches())]
    got = torch.tensor([[each.total, each.ranking, each.rr] for each in mine])
    torch.testing.assert_close(got.double(), torch.tensor(losses).double(), rtol=2e-5, atol=1e-6)
    tensors = [model.rows(0, ITEMS), *(getattr(model.extractor, name) for name in PARAMETERS)]
    for tensor, exact in zip(tensors, expected, strict=True):
        torch.testing.assert_close(tensor.double(), exact, rtol=0, atol=RATE * 1e-2)
