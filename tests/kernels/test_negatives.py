"""Negatives: the same ids on every backend, never the padding row."""

import pytest
import torch

from remi_fast.kernels.negatives import sample_negatives
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
        ({"sampler": "log"}, "sampler must be one of uniform"),
        ({"num_items": 1}, "num_items must be in"),
        ({"num": -1}, "num must be in"),
        ({"step": 2**32}, "step must be in"),
        ({"step": torch.tensor(-1)}, "step must be in"),
        ({"step": torch.tensor([1, 2])}, r"step: got \(2,\) torch.int64"),
        ({"step": torch.tensor(1, dtype=torch.int32)}, "step: got .* torch.int32"),
        ({"seed": -1}, "seed must be in"),
        ({"backend": "cuda"}, "cuda"),
    ],
)
def test_refusals(change, message):
    arguments = {"num": 3, "num_items": 9, "seed": 0, "step": 0} | change
    with pytest.raises(ValueError, match=message):
        sample_negatives(arguments.pop("num"), arguments.pop("num_items"), **arguments)
