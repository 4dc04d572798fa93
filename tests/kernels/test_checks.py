"""What every operation on histories refuses, whatever its backend."""

import pytest
import torch

from remi_fast.kernels.capsule_routing import capsule_routing
from remi_fast.kernels.checks import check_history
from remi_fast.kernels.self_attentive import self_attentive_extractor
from remi_fast.kernels.self_attentive_query import self_attentive_query

LAYERS = torch.zeros(3, 4), torch.zeros(4, 8), torch.zeros(8, 2)


def capsules(history, length, backend):
    logits = torch.zeros(1, 2, 3)
    return capsule_routing(
        history, length, torch.eye(4), logits, through_routing=True, backend=backend
    )


def extractor(history, length, backend):
    return self_attentive_extractor(history, length, *LAYERS, backend=backend)


def query(history, length, backend):
    target = torch.zeros(len(history), 4)
    return self_attentive_query(history, length, *LAYERS, target, backend=backend)


@pytest.mark.parametrize("backend", ["auto", "triton", "native", "reference"])
@pytest.mark.parametrize("operation", [capsules, extractor, query])
@pytest.mark.parametrize(
    "length, message",
    [
        (torch.tensor([2.5, 1.0]), "length: got torch.float32, expected whole numbers"),
        (torch.tensor([True, True]), "length: got torch.bool, expected whole numbers"),
        (torch.tensor([3, 4]), "length: got 4, expected 0 <= length <= 3"),
        (torch.tensor([-1, 3]), "length: got -1, expected 0 <= length <= 3"),
        (torch.tensor([[1, 3]]), r"length: got shape \(1, 2\), expected \(2,\)"),
    ],
    ids=["float", "bool", "beyond", "negative", "shape"],
)
def test_lengths_that_are_none(operation, length, message, backend):
    with pytest.raises(ValueError, match=message):
        operation(torch.zeros(2, 3, 4), length, backend)


@pytest.mark.parametrize("operation", [capsules, extractor, query])
def test_every_length_that_is_one(operation):
    for dtype in (torch.int64, torch.int32, torch.uint8):
        operation(torch.ones(4, 3, 4), torch.arange(4).to(dtype), "native")
    operation(torch.ones(0, 3, 4), torch.zeros(0, dtype=torch.int64), "native")


def test_what_is_traced_is_not_read():
    """Lengths are read where that is for nothing: not in a graph, which a number would break."""

    def checked(history, length):
        check_history(history, length)
        return length + 1

    compiled = torch.compile(checked, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(2, 3, 4), torch.tensor([3, 9])).tolist() == [4, 10]
