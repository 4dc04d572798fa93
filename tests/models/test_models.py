"""Every model against its formula in float64, and through the trainer."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from remi_fast import api
from remi_fast.config import Config, LossConfig, ModelConfig, OptimConfig, TrainConfig
from remi_fast.errors import RunFolderError
from remi_fast.kernels.reference import routing_regularizer, select_interest
from remi_fast.models.capsules import DynamicRoutingExtractor, MindExtractor
from remi_fast.models.recommender import make_model
from remi_fast.models.single_vector import GRUExtractor, MeanExtractor
from remi_fast.retrieval.evaluate import evaluate
from remi_fast.training.frequencies import training_counts
from remi_fast.training.step import TrainingStep

NAMES = ["comirec-sa", "comirec-dr", "mind", "dnn", "gru4rec"]
B, L, D, K = 5, 6, 8, 3


def seeded():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def histories():
    history = torch.randn(B, L, D, generator=seeded(), dtype=torch.float64)
    return history, torch.tensor([6, 1, 3, 0, 5])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_selected_is_what_the_loss_would_choose(histories, name):
    """In one operation, of the models that have it."""
    history, length = histories
    target = torch.randn(B, D, generator=seeded(), dtype=torch.float64)
    config = ModelConfig(name=name, dim=D, num_interests=K, max_history=L)
    extractor = make_model(config, 20, seed=1).extractor.double()
    selected = extractor.select(history, length, target)
    assert (selected is None) == (name != "comirec-sa")
    if selected is not None:
        interests, routing = extractor(history, length)
        expected = select_interest(interests, target)[0], routing_regularizer(routing, D)
        torch.testing.assert_close(selected, expected)


def test_dynamic_routing_votes_with_the_matrix_of_the_position(histories):
    history, length = histories
    extractor = DynamicRoutingExtractor(D, K, L, generator=seeded()).double()
    interests, routing = extractor(history, length)
    weight = extractor.weight.detach().view(L, K, D, D)
    for b in range(B):
        for k in range(K):
            votes = torch.stack([weight[p, k] @ history[b, p] for p in range(L)])
            votes[length[b] :] = 0
            z = torch.zeros(L, dtype=torch.float64)
            for _ in range(3):
                c = torch.softmax(z, dim=0)
                c[length[b] :] = 0
                s = c @ votes
                v = s * s.norm() / (1 + s @ s)
                z = z + votes @ v
            torch.testing.assert_close(interests[b, k], v)
            torch.testing.assert_close(routing[b, k], c)


def test_mind_shares_its_matrix_and_draws_its_logits(histories):
    history, length = histories
    extractor = MindExtractor(D, K, seed=5, generator=seeded()).double()
    first = extractor(history, length, 0)
    assert torch.equal(first[0], extractor(history, length, 0)[0]), "a function of (seed, step)"
    assert not torch.allclose(first[0], extractor(history, length, 1)[0])
    same = history[:1].expand(B, L, D), torch.full((B,), L)
    at_rest, _ = extractor(*same)
    assert torch.equal(at_rest[0], at_rest[4]), "the same for all users"
    in_training, _ = extractor(*same, 7)
    assert not torch.allclose(in_training[0], in_training[4]), "anew for every sample"
    doubled = MindExtractor(D, K, seed=5, generator=seeded()).double()
    doubled.weight.data.copy_(torch.eye(D))
    vector = history[0, 0]
    single = torch.zeros(1, L, D, dtype=torch.float64)
    single[0, 0] = vector
    interests, routing = doubled(single, torch.tensor([1]))
    for k in range(K):  # one item: the direction is its own
        torch.testing.assert_close(interests[0, k] / interests[0, k].norm(), vector / vector.norm())
        weighed = routing[0, k, 0] * vector
        expected = weighed.norm() ** 2 / (1 + weighed.norm() ** 2)
        torch.testing.assert_close(interests[0, k].norm(), expected)


def test_the_mean_is_over_the_real_items(histories):
    history, length = histories
    extractor = MeanExtractor(D, generator=seeded()).double()
    interests, routing = extractor(history, length)
    assert interests.shape == (B, 1, D) and routing is None
    for b, n in enumerate(length.tolist()):
        mean = history[b, :n].mean(dim=0) if n else torch.zeros(D, dtype=torch.float64)
        torch.testing.assert_close(interests[b, 0], extractor.weight @ mean)


def test_gru_is_read_at_the_last_real_item(histories):
    history, length = histories
    extractor = GRUExtractor(D, seed=1, generator=seeded()).double()
    interests, _ = extractor(history, length)
    w, u = extractor.gru.weight_ih_l0, extractor.gru.weight_hh_l0
    for b, n in enumerate(length.tolist()):
        h = torch.zeros(2 * D, dtype=torch.float64)
        for x in history[b, :n]:
            (ri, zi, ni), (rh, zh, nh) = (w @ x).chunk(3), (u @ h).chunk(3)
            r, z = torch.sigmoid(ri + rh), torch.sigmoid(zi + zh)
            h = (1 - z) * torch.tanh(ni + r * nh) + z * h
        expected = extractor.linear(h) if n else torch.zeros(D, dtype=torch.float64)
        torch.testing.assert_close(interests[b, 0], expected)


def test_dropout_is_for_training_and_a_function_of_the_step():
    extractor = GRUExtractor(64, seed=1, generator=seeded())
    kept = extractor._kept(torch.ones(500, 10, 64), 3)
    assert sorted(kept.unique().tolist()) == [0.0, 1.25]
    share, trials = (kept == 0).double().mean().item(), kept.numel()
    assert abs(share - 0.2) < 5 * math.sqrt(0.2 * 0.8 / trials)
    assert torch.equal(kept, extractor._kept(torch.ones(500, 10, 64), 3))
    assert not torch.equal(kept, extractor._kept(torch.ones(500, 10, 64), 4))
    history, length = torch.randn(2, 5, 64, generator=seeded()), torch.tensor([5, 2])
    assert torch.equal(extractor(history, length)[0], extractor(history, length)[0])
    assert not torch.equal(extractor(history, length)[0], extractor(history, length, 0)[0])


@pytest.mark.parametrize(
    "name, parameter, std",
    [
        ("comirec-dr", "extractor.weight", math.sqrt(2 / (20 * 4 * 64 * 64))),
        ("mind", "extractor.weight", math.sqrt(2 / 64)),
        ("dnn", "extractor.weight", math.sqrt(2 / 64)),
        ("dnn", "table.weight", math.sqrt(2 / 64)),
        ("gru4rec", "extractor.linear.weight", math.sqrt(2 / (128 + 64))),
        ("gru4rec", "table.weight", math.sqrt(2 / (3000 + 64))),
    ],
)
def test_published_initialisation(name, parameter, std):
    model = make_model(ModelConfig(name=name), 3000, seed=1)
    weight = dict(model.named_parameters())[parameter].detach()
    assert weight.std().item() == pytest.approx(std, rel=0.03)
    again = make_model(ModelConfig(name=name), 3000, seed=1).state_dict()
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.values(), strict=True)
    )


def config(name, **train):
    return Config(
        model=ModelConfig(name=name, dim=16, num_interests=2, max_history=6),
        loss=LossConfig(num_negatives=40, rr_lambda=1.0),
        train=TrainConfig(**{"batch_size": 32, "steps": 60, "eval_every": 30} | train),
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_model_learns(name, dataset, tmp_path):
    fast = replace(config(name, steps=150, eval_every=150), optim=OptimConfig(lr=0.02))
    result = api.train(dataset.path, tmp_path / "run", fast)
    untrained = make_model(fast.model, dataset.num_items, seed=1)
    before = evaluate(untrained, dataset, "valid")
    assert result["valid"]["recall@20"] > before["recall@20"] + 0.05


@pytest.mark.parametrize("name", ["comirec-dr", "mind", "gru4rec"])
def test_resumed_runs_have_the_same_bits(name, dataset, tmp_path, monkeypatch):
    api.train(dataset.path, tmp_path / "whole", config(name, checkpoint_every=10))
    call = TrainingStep.__call__

    def killed(self, step, *batch):
        if step == 47:
            raise KeyboardInterrupt
        return call(self, step, *batch)

    monkeypatch.setattr(TrainingStep, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        api.train(dataset.path, tmp_path / "cut", config(name, checkpoint_every=10))
    monkeypatch.undo()
    api.resume(tmp_path / "cut")
    last = "checkpoints/last"
    for file in (tmp_path / "whole" / last).glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "cut" / last / file.name).read_bytes()


def test_popularity_is_counted(dataset, tmp_path):
    result = api.train(dataset.path, tmp_path / "run", config("pop"))
    counts = np.zeros(dataset.num_items)
    for start, end in dataset.train_spans:
        for item in dataset.items[start:end]:
            counts[item] += 1
    assert training_counts(dataset).tolist() == counts.tolist()
    assert result["train"]["steps"] == 0 and result["test"]["recall@50"] > 0
    run = api.load(tmp_path / "run")
    table = run.model.rows(0, dataset.num_items)[:, 0].tolist()
    assert table == counts.tolist()
    with pytest.raises(RunFolderError, match="pop is counted, not trained"):
        api.resume(tmp_path / "run")
