"""The trainer with steps that the device makes by itself: the same loop, log, checkpoints, results.

Tiny: without a GPU, Triton's interpreter makes them.
"""

import os
import signal
from functools import partialmethod

import pytest
import torch

from remi_fast import api
from remi_fast.config import Config, LossConfig, ModelConfig, OptimConfig, TrainConfig
from remi_fast.errors import NonFiniteError
from remi_fast.training import trainer as module
from remi_fast.training.device_step import DeviceStep
from tests.device import DEVICE
from tests.training.test_trainer import log, same, tensors


def config(backend="triton", **train):
    chosen = {"batch_size": 3, "steps": 6, "eval_every": 3, "eval_users": 2, "threads": 1} | train
    device = DEVICE if backend == "triton" else "cpu"
    return Config(
        model=ModelConfig(dim=4, num_interests=2, max_history=4),
        loss=LossConfig(beta=1.0, rr_lambda=1.0, num_negatives=6),
        optim=OptimConfig(lr=0.01),
        train=TrainConfig(backend=backend, device=device, **chosen),
    )


@pytest.fixture(scope="module", autouse=True)
def small(dataset):
    """A line of the log every two steps; the test users are few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOG_EVERY", 2)
        whole = module.Trainer.evaluate
        patch.setattr(
            module.Trainer, "evaluate", lambda self, split, most=None: whole(self, split, 2)
        )
        patch.setattr("remi_fast.training.diagnostics.USERS", 2)
        yield


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    return run, api.train(dataset.path, run, config())


def test_it_trains_as_the_cpu_does(finished, dataset, tmp_path):
    run, result = finished
    native = api.train(dataset.path, tmp_path / "native", config("native"))
    assert result["train"]["steps"] == native["train"]["steps"] == 6
    for which in ("last", "best"):
        mine, its = tensors(run, which), tensors(tmp_path / "native", which)
        assert mine.keys() == its.keys()
        for name, values in mine.items():
            torch.testing.assert_close(values, its[name], rtol=1e-3, atol=1e-5)
    for mine, its in zip(log(run), log(tmp_path / "native"), strict=True):
        assert mine.pop("split", None) == its.pop("split", None)
        assert mine == pytest.approx(its, rel=1e-3, abs=1e-4)
    assert [line["step"] for line in log(run) if "loss" in line] == [2, 4, 6]


def test_it_advances_from_stop_to_stop(dataset, tmp_path, monkeypatch):
    whole, asked = DeviceStep.advance, []

    def advance(self, most):
        asked.append(most)
        return whole(self, most)

    monkeypatch.setattr(DeviceStep, "advance", advance)
    api.train(dataset.path, tmp_path / "run", config(checkpoint_every=5, steps=7, eval_every=20))
    assert asked == [2, 2, 1, 1, 1]  # to 2, 4, 5 (checkpoint), 6, 7 (the end)


def test_steps_of_a_graph_change_no_bit(finished, dataset, tmp_path, monkeypatch):
    """Two a replay, which on a GPU is a graph; the others go one by one."""
    whole, replays = DeviceStep._recorded, []

    def recorded(self):
        replay = whole(self)
        return lambda: (replays.append(self._optimizer.steps_taken), replay())

    monkeypatch.setattr(
        DeviceStep, "__init__", partialmethod(DeviceStep.__init__, steps_a_replay=2)
    )
    monkeypatch.setattr(DeviceStep, "_recorded", recorded)
    api.train(dataset.path, tmp_path / "run", config())
    assert len(replays) == 2  # to 2 and 6: a validation parts 3 and 4
    for which in ("last", "best"):
        assert same(tensors(tmp_path / "run", which), tensors(finished[0], which))
    assert log(tmp_path / "run") == log(finished[0])


@pytest.mark.parametrize("stops_at", [2, 4])
def test_ctrl_c_and_resuming_change_no_bit(finished, dataset, tmp_path, monkeypatch, stops_at):
    whole, run = DeviceStep.advance, tmp_path / "run"

    def advance(self, most):
        losses = whole(self, most)
        if self._optimizer.steps_taken >= stops_at:
            os.kill(os.getpid(), signal.SIGINT)
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(DeviceStep, "advance", advance)
        assert api.train(dataset.path, run, config()) == {"interrupted": True, "step": stops_at}
    result = api.resume(run)
    for which in ("last", "best"):
        assert same(tensors(run, which), tensors(finished[0], which))
    assert log(run) == log(finished[0])
    for part in ("best_step", "valid", "test"):
        assert result[part] == finished[1][part]


def test_the_last_good_checkpoint_stands(finished, dataset, tmp_path, monkeypatch):
    whole, run = DeviceStep.advance, tmp_path / "run"

    def advance(self, most):
        if self._optimizer.steps_taken == 4:
            self._made_of.model.extractor.w1.detach()[3, 1] = torch.nan
        return whole(self, most)

    with monkeypatch.context() as patch:
        patch.setattr(DeviceStep, "advance", advance)
        with pytest.raises(NonFiniteError, match="step 4: extractor: weight w1: got nan in row 3"):
            api.train(dataset.path, run, config())
    api.resume(run)
    assert same(tensors(run), tensors(finished[0])) and log(run) == log(finished[0])


def test_its_weights_are_read_by_any_backend(finished):
    recommender = api.load(finished[0])
    assert recommender.model.extractor.backend == "auto"
    assert recommender.model.table.weight.device.type == "cpu"
