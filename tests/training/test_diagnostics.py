"""What the diagnostics say of models whose interests and scores are known."""

import json
import math

import numpy as np
import pytest
import torch

from remi_fast import api
from remi_fast.config import Config, LossConfig, ModelConfig, TrainConfig
from remi_fast.models.extractor import Extractor
from remi_fast.models.item_table import ItemTable
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.training.diagnostics import NEGATIVES, diagnose


class Fixed(Extractor):
    """Routing that is given; interests are its mixtures."""

    def __init__(self, routing):
        super().__init__()
        self.routing = routing

    def forward(self, history, length, step=None):
        padding = torch.arange(history.shape[1]) >= length[:, None]
        routing = self.routing(history.shape[0], history.shape[1]).masked_fill(padding[:, None], 0)
        return routing @ history, routing


def model(dataset, routing, std=1.0):
    table = ItemTable(dataset.num_items, 6, std=std, generator=torch.Generator().manual_seed(1))
    return MultiInterestModel(table, Fixed(routing), 5)


def one_item(batch, positions):
    return torch.nn.functional.one_hot(torch.zeros(batch, 3, dtype=torch.int64), positions).float()


def all_items(batch, positions):
    return torch.ones(batch, 3, positions)


def test_collapsed_routing(dataset):
    found = diagnose(model(dataset, one_item), dataset, beta=1.0, seed=1)
    assert found["routing_entropy"] == pytest.approx(0, abs=1e-6)
    assert found["largest_routing_weight"] == pytest.approx(1)
    assert found["interest_similarity"] == pytest.approx(1, abs=1e-5)
    assert found["interests_used"] == pytest.approx(1), "a tie goes to the first"


def test_routing_over_all_items(dataset):
    found = diagnose(model(dataset, all_items), dataset, beta=1.0, seed=1)
    assert found["routing_entropy"] == pytest.approx(1, abs=1e-5)
    assert 1 / 5 - 1e-6 <= found["largest_routing_weight"] <= 1 / 2


def test_interests_that_win_in_turn(dataset):
    def opposite(batch, positions):
        return torch.tensor([[1.0], [-1.0]]).expand(batch, 2, positions)

    found = diagnose(model(dataset, opposite), dataset, beta=1.0, seed=1)
    assert found["interest_similarity"] == pytest.approx(-1, abs=1e-5)
    assert 1.9 < found["interests_used"] <= 2


def test_negatives_without_and_with_hardness(dataset):
    one = model(dataset, all_items, std=0.3)
    plain = diagnose(one, dataset, beta=0.0, seed=1)
    assert plain["effective_negatives"] == pytest.approx(1, abs=1e-4)
    assert plain["hardness"] == pytest.approx(0, abs=1e-4)
    previous = plain
    for beta in (0.5, 2.0, 50.0):
        found = diagnose(one, dataset, beta=beta, seed=1)
        assert found["effective_negatives"] < previous["effective_negatives"]
        assert found["hardness"] > previous["hardness"]
        assert found["target_margin"] < previous["target_margin"]
        previous = found
    assert previous["effective_negatives"] < 0.1
    hardest = diagnose(one, dataset, beta=1e6, seed=1)  # equal ids are equally hard
    assert hardest["effective_negatives"] * NEGATIVES < 60


def test_nothing_is_changed_and_the_result_repeats(dataset):
    one = model(dataset, all_items)
    before = one.table.weight.clone()
    assert diagnose(one, dataset, beta=1.0, seed=1) == diagnose(one, dataset, beta=1.0, seed=1)
    assert torch.equal(before, one.table.weight)


@pytest.mark.parametrize("name, routed", [("comirec-sa", True), ("mind", True), ("dnn", False)])
def test_they_are_logged_at_every_validation(name, routed, dataset, tmp_path):
    config = Config(
        model=ModelConfig(name=name, dim=8, num_interests=2, max_history=5),
        loss=LossConfig(num_negatives=20),
        train=TrainConfig(batch_size=16, steps=20, eval_every=10),
    )
    api.train(dataset.path, tmp_path / "run", config)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    logged = [line for line in lines if line.get("split") == "diagnostics"]
    assert [line["step"] for line in logged] == [10, 20]
    for line in logged:
        assert ("routing_entropy" in line) == ("interests_used" in line) == routed
        numbers = [v for v in line.values() if isinstance(v, float)]
        assert numbers and np.isfinite(numbers).all() and not math.isnan(line["hardness"])
