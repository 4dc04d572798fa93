"""Where a run trains: on a GPU if there is one that can, and a clear error where it cannot."""

import logging
from contextlib import closing
from types import SimpleNamespace

import pytest
import torch

from remi_fast.config import Config, LossConfig, ModelConfig, TrainConfig
from remi_fast.data.uploaded_batches import UploadedBatches
from remi_fast.errors import ConfigError
from remi_fast.kernels import runtime
from remi_fast.kernels.device_batches import device_bytes
from remi_fast.training import engines, trainer
from remi_fast.training.placement import by_triton, fits, training_device


def config(device="auto", backend="auto", loss=None, **model):
    return Config(
        model=ModelConfig(**model),
        loss=LossConfig(**(loss or {})),
        train=TrainConfig(device=device, backend=backend),
    )


@pytest.fixture
def gpu(monkeypatch):
    """As if there were one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_gpu(no_gpu):
    for device in ("auto", "cpu"):
        for backend in ("auto", "native", "reference"):
            settings = config(device, backend)
            assert training_device(settings) == torch.device("cpu")
            assert not by_triton(settings, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"train.device: got 'cuda', expected 'cpu' or 'auto'"):
        training_device(config("cuda"))


def test_triton_needs_a_gpu(no_gpu, monkeypatch):
    monkeypatch.setattr(runtime, "INTERPRET", False)
    with pytest.raises(ConfigError, match="train.backend: got 'triton' on a CPU, expected 'auto',"):
        training_device(config(backend="triton"))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_cpu_has_one_arithmetic(no_gpu, precision):
    settings = Config(train=TrainConfig(precision=precision))
    text = f"train.precision: got '{precision}' on a CPU, expected 'fp32'"
    with pytest.raises(ConfigError, match=text):
        training_device(settings)


def test_with_a_gpu(gpu):
    for device in ("auto", "cuda"):
        for settings in (config(device), config(device, "triton", name="comirec-dr")):
            assert training_device(settings) == torch.device("cuda", 0)
            assert by_triton(settings, torch.device("cuda", 0))
    assert training_device(config("cpu")) == torch.device("cpu")


CANNOT = [
    ({"name": "mind"}, "model.name: got 'mind' on a GPU, expected 'comirec-sa' or 'comirec-dr'"),
    ({"dim": 257}, "model.dim: got 257 on a GPU, expected at most 256"),
    ({"num_interests": 17}, "model.num_interests: got 17 on a GPU, expected at most 16"),
    ({"max_history": 257}, "model.max_history: got 257 on a GPU, expected at most 256"),
    ({"loss": {"selection": "soft"}}, "loss.selection: got 'soft' on a GPU, expected 'hard'"),
    ({"loss": {"name": "gbce", "beta": 0.0}}, "loss.name: got 'gbce' on a GPU, expected 'ihn'"),
    ({"backend": "native"}, "train.backend: got 'native' on a GPU, expected 'auto' or 'triton'"),
]


@pytest.mark.parametrize("settings, text", CANNOT)
def test_what_a_gpu_cannot_train(gpu, settings, text):
    """An error where it was asked for; else the CPU trains it."""
    with pytest.raises(ConfigError, match=f"{text}; others train with train.device 'cpu'"):
        training_device(config("cuda", **settings))
    assert training_device(config("auto", **settings)) == torch.device("cpu")
    assert training_device(config("cpu", **settings)) == torch.device("cpu")


def test_the_reason_is_told(gpu, dataset, caplog):
    settings = Config(model=ModelConfig(name="dnn"), train=TrainConfig(batch_size=4))
    model = trainer.new_model(settings, dataset.num_items)
    with caplog.at_level(logging.WARNING):
        engines.make_engine(engines.TrainingStep(model, settings), dataset, 0).close()
    (record,) = caplog.records
    assert "training on the CPU: model.name: got 'dnn' on a GPU" in record.getMessage()


def test_data_that_do_not_fit_a_gpu_are_uploaded_by_batches(dataset, monkeypatch):
    """Half of it is for the data."""
    gpu = torch.device("cuda", 0)
    need = device_bytes(dataset.items, dataset.train_spans, min_history=4)
    for free, fit in ((2 * need, True), (2 * need - 2, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 1 << 40))
        assert fits(dataset, 4, gpu) is fit
    assert fits(dataset, 4, torch.device("cpu"))
    settings = Config(model=ModelConfig(dim=4), train=TrainConfig(batch_size=4, backend="triton"))
    step = engines.TrainingStep(trainer.new_model(settings, dataset.num_items), settings)
    monkeypatch.setattr(engines, "fits", lambda *_: False)
    with closing(engines.make_engine(step, dataset, 7)) as engine:
        assert isinstance(engine._batches, UploadedBatches)
        engine._batches.fill(7, 1)  # the step it was made at


def test_a_table_that_does_not_fit_a_gpu(gpu, dataset, monkeypatch):
    settings = config("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 40, 1 << 40))
    trainer.check(dataset, settings)
    need = 4 * 3 * dataset.num_items * 64  # the table alone
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (need, 1 << 40))
    with pytest.raises(ConfigError, match="GiB free on the GPU"):
        trainer.check(dataset, settings)


def test_a_pop_model_is_counted_anywhere(gpu, dataset):
    trainer.check(dataset, config("cuda", name="pop"))


def test_weights_of_a_gpu_are_loaded_without_one(monkeypatch, no_gpu):
    """A run that was trained by Triton: its model uses what there is."""
    monkeypatch.setattr(trainer.checkpoint, "load_weights", lambda *_: None)
    monkeypatch.setattr(
        trainer.files, "standing", lambda path: SimpleNamespace(exists=lambda: True)
    )
    model = trainer.load_model(SimpleNamespace(best=None), config(backend="triton"), 9)
    assert model.extractor.backend == "auto"
