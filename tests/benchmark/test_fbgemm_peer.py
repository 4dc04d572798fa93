"""FBGEMM as a peer of the table update: taken where it can be imported, and checked before."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from remi_fast.benchmark import fbgemm_peer
from remi_fast.benchmark.update_contestants import Update, contestants

UPDATE = Update(50, 2)


def steps(count=5):
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        ids = torch.randint(0, 50, (40,), generator=generator)  # some twice
        yield ids, torch.randn(40, 8, generator=generator)


class Adagrad(torch.nn.Module):
    """As much of FBGEMM's module as the peer uses."""

    duplicates_are_summed = True

    def __init__(self, specs, *, learning_rate, eps, **options):
        super().__init__()
        ((items, dim, location, device),) = specs
        assert (location, device, options["optimizer"]) == ("HOST", "CPU", "EXACT_ADAGRAD")
        assert options["pooling_mode"] == options["bounds_check_mode"] == "NONE"
        self.weight = torch.nn.Parameter(torch.zeros(items, dim))
        self.state = torch.zeros(items, dim)
        self.lr, self.eps = learning_rate, eps

    def split_embedding_weights(self):
        return [self.weight]

    def forward(self, ids, offsets):
        assert torch.equal(offsets, torch.arange(len(ids) + 1))
        rows = self.weight.detach()[ids].requires_grad_()
        rows.register_hook(lambda gradients: self.update(ids, gradients))
        return rows

    def update(self, ids, gradients):
        total = torch.zeros_like(self.state)
        if self.duplicates_are_summed:
            total.index_add_(0, ids, gradients)
        else:
            total[ids] = gradients
        self.state += total**2
        self.weight.data -= self.lr * total / (self.state.sqrt() + self.eps)


@pytest.fixture(autouse=True)
def asked_anew():
    fbgemm_peer.unavailable.cache_clear()
    yield
    fbgemm_peer.unavailable.cache_clear()


@pytest.fixture
def stand_in(monkeypatch):
    names = SimpleNamespace(HOST="HOST", CPU="CPU", NONE="NONE", EXACT_ADAGRAD="EXACT_ADAGRAD")
    common = "split_table_batched_embeddings_ops_common"
    training = "split_table_batched_embeddings_ops_training"
    for name, content in (
        ("", {}),
        (".split_embedding_configs", {"EmbOptimType": names}),
        (
            f".{common}",
            dict.fromkeys(("BoundsCheckMode", "EmbeddingLocation", "PoolingMode"), names),
        ),
        (
            f".{training}",
            {"ComputeDevice": names, "SplitTableBatchedEmbeddingBagsCodegen": Adagrad},
        ),
    ):
        module = ModuleType(f"fbgemm_gpu{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_it_takes_part_where_it_can_be_imported(stand_in):
    assert fbgemm_peer.unavailable() is None
    step = contestants(UPDATE)["FBGEMM, Adagrad (no Adam on a CPU)"]().run
    step()
    step()


def test_the_check_knows_a_wrong_update(stand_in, monkeypatch):
    weight = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert fbgemm_peer.check(weight, steps()) < 1e-3
    monkeypatch.setattr(Adagrad, "duplicates_are_summed", False)
    assert fbgemm_peer.check(weight, steps()) > 0.1


@pytest.mark.parametrize("error", [ImportError, OSError])
def test_it_is_left_out_where_it_cannot(monkeypatch, tmp_path, error):
    monkeypatch.delitem(sys.modules, "fbgemm_gpu", raising=False)
    source = f"raise {error.__name__}('undefined symbol')"
    (tmp_path / "fbgemm_gpu.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert fbgemm_peer.unavailable() == f"{error.__name__}: undefined symbol"
    assert not any("FBGEMM" in name for name in contestants(UPDATE))


def test_the_library_itself():
    reason = fbgemm_peer.unavailable()
    if reason is not None:
        pytest.skip(reason)
    weight = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert fbgemm_peer.check(weight, steps()) < 1e-3
