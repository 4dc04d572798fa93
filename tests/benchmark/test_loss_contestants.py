"""The loss's contestants compute the same, sampled and against a whole catalogue, however small."""

import importlib.util

import pytest
import torch
from bench.loss_contestants import Size, contestants, make_inputs, truth
from bench.loss_in_turns import error, make_run


@pytest.mark.parametrize("catalogue", [False, True])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_all_compute_what_they_are_compared_in(monkeypatch, catalogue, beta):
    monkeypatch.setattr(torch, "compile", lambda function: function)  # takes half a minute
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # compile, too
    size = Size(4, 8, beta=beta, catalogue=catalogue)
    inputs = make_inputs(size, "cpu", torch.float32)
    found = contestants(size, "cpu")
    assert {"remi-fast", "remi-fast, plain", "PyTorch tiles", "autograd"} <= found.keys()
    for name, contestant in found.items():
        assert error(make_run(contestant, inputs)(), truth(name, inputs)) < 1e-5, name
