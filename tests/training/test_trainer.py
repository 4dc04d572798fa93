"""Training runs: what they write, resuming bit for bit, Ctrl-C, early stopping."""

import dataclasses
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from remi_fast import api, files
from remi_fast.config import Config, LossConfig, ModelConfig, OptimConfig, TrainConfig
from remi_fast.errors import CorruptFileError, DataError, NonFiniteError, RunFolderError
from remi_fast.training import checkpoint
from remi_fast.training import trainer as module
from remi_fast.training.run_folder import MIRRORED_AT_A_TIME, MetricsLog, RunFolder
from remi_fast.training.step import TrainingStep


def config(**train):
    chosen = {"batch_size": 16, "steps": 40, "eval_every": 10, "threads": 1} | train
    return Config(
        model=ModelConfig(dim=8, num_interests=2, max_history=6),
        loss=LossConfig(beta=1.0, beta_warmup=25, rr_lambda=1.0, num_negatives=32),
        optim=OptimConfig(lr=0.01),
        train=TrainConfig(device="cpu", **chosen),
    )


def tensors(run, which="last"):
    found = {}
    for path in sorted((run / "checkpoints" / which).glob("*.safetensors")):
        found |= {f"{path.stem}/{name}": value for name, value in load_file(path).items()}
    return found


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def log(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in ("seconds", "samples_per_s")} for x in lines]


@pytest.fixture(scope="module", autouse=True)
def log_often():
    """So that the means between two lines are part of what is resumed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOG_EVERY", 7)
        yield


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    return run, api.train(dataset.path, run, config())


def test_run_folder(finished, dataset):
    run, result = finished
    assert json.loads((run / "result.json").read_text()) == result
    assert result["train"]["steps"] == 40 and result["best_step"] in (10, 20, 30, 40)
    assert result["test"]["users"] == len(dataset.eval_split("test"))
    validations = [line for line in log(run) if line.get("split") == "valid"]
    assert [line["step"] for line in validations] == [10, 20, 30, 40]
    best = max(validations, key=lambda line: line["recall@50"])
    assert best["recall@50"] == result["valid"]["recall@50"]
    logged = {line["step"]: line["beta"] for line in log(run) if "loss" in line}
    assert logged == {7: 6 / 25, 14: 13 / 25, 21: 20 / 25, 28: 1, 35: 1}, "beta of the last step"
    assert list((run / "tensorboard").glob("events*"))
    assert {"torch", "cpu", "command"} <= json.loads((run / "env.json").read_text()).keys()


def test_tensorboard_has_every_line(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    lines = [{"step": step, "loss": step / 4} for step in range(1, 2 * MIRRORED_AT_A_TIME)]
    lines.insert(3, {"step": 3, "split": "valid", "recall@50": 0.5})
    with MetricsLog(RunFolder(tmp_path), resume_step=0) as written:
        for line in lines:
            written.write(line)
    board = accumulators.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = {
        name: [(event.step, event.value) for event in board.Scalars(name)]
        for name in board.Tags()["scalars"]
    }
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert shown == {"train/loss": losses, "valid/recall@50": [(3, 0.5)]}


def test_it_learns(dataset, tmp_path):
    result = api.train(dataset.path, tmp_path / "run", config(steps=400, eval_every=100))
    untrained = module.make_model(config().model, dataset.num_items, seed=1)
    before = module.evaluate(untrained, dataset, "test")
    assert result["test"]["recall@20"] > before["recall@20"] + 0.2


def test_same_seed_same_bits_other_seed_other_bits(finished, dataset, tmp_path):
    api.train(dataset.path, tmp_path / "again", config())
    assert same(tensors(tmp_path / "again"), tensors(finished[0]))
    assert log(tmp_path / "again") == log(finished[0])
    api.train(dataset.path, tmp_path / "other", config(seed=2))
    assert not same(tensors(tmp_path / "other"), tensors(finished[0]))


class _Killed(BaseException):
    pass


def killed_after(monkeypatch, steps):
    """The process dies in the middle of the step after so many."""
    whole = TrainingStep.__call__

    def step(self, number, *batch):
        if number >= steps:
            raise _Killed
        return whole(self, number, *batch)

    monkeypatch.setattr(TrainingStep, "__call__", step)


@pytest.mark.parametrize("steps", [0, 7, 10, 17, 39])
def test_resume_after_a_kill_is_bit_identical(monkeypatch, finished, dataset, tmp_path, steps):
    run = tmp_path / "killed"
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        killed_after(patch, steps)
        api.train(dataset.path, run, config(checkpoint_every=5))
    result = api.resume(run)
    assert same(tensors(run), tensors(finished[0]))
    assert same(tensors(run, "best"), tensors(finished[0], "best"))
    assert log(run) == log(finished[0])
    for part in ("best_step", "valid", "test"):
        assert result[part] == finished[1][part]


@pytest.mark.parametrize(
    "loss",
    [
        {"sampler": "full", "beta": 0.5, "beta_warmup": 25},
        {"name": "gbce", "beta": 0.0, "replacement": False, "selection": "soft"},
    ],
    ids=lambda loss: "-".join(map(str, loss.values())),
)
def test_other_training_schemes_resume_with_the_same_bits(monkeypatch, dataset, tmp_path, loss):
    chosen = dataclasses.replace(
        config(checkpoint_every=5), loss=LossConfig(num_negatives=20, rr_lambda=1.0, **loss)
    )
    api.train(dataset.path, tmp_path / "whole", chosen)
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        killed_after(patch, 17)
        api.train(dataset.path, tmp_path / "killed", chosen)
    api.resume(tmp_path / "killed")
    assert same(tensors(tmp_path / "killed"), tensors(tmp_path / "whole"))
    assert log(tmp_path / "killed") == log(tmp_path / "whole")
    assert loss.get("name", "ihn") in log(tmp_path / "whole")[0]


def test_interrupt_leaves_a_run_that_resumes_to_the_same_bits(
    monkeypatch, finished, dataset, tmp_path
):
    whole, handler = TrainingStep.__call__, signal.getsignal(signal.SIGINT)

    def step(self, number, *batch):
        if number == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(self, number, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", step)
        stopped = api.train(dataset.path, tmp_path / "run", config())
    assert stopped == {"interrupted": True, "step": 14}
    assert not (tmp_path / "run" / "result.json").exists()
    assert signal.getsignal(signal.SIGINT) is handler
    api.resume(tmp_path / "run")
    assert same(tensors(tmp_path / "run"), tensors(finished[0]))


def test_resuming_a_finished_run_changes_nothing(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy)
    result = api.resume(copy)
    assert same(tensors(copy), tensors(finished[0])) and log(copy) == log(finished[0])
    for part in ("best_step", "valid", "test"):
        assert result[part] == finished[1][part]


def test_patience(dataset, tmp_path, monkeypatch):
    values = iter([0.5, 0.6, 0.4, 0.6, 0.9])
    monkeypatch.setattr(
        module.Trainer, "evaluate", lambda self, *_: {"recall@50": next(values), "users": 1}
    )
    result = api.train(dataset.path, tmp_path / "run", config(patience=2, steps=100))
    assert result["train"]["steps"] == 40 and result["best_step"] == 20


def test_the_test_is_of_the_best_weights(dataset, tmp_path, monkeypatch):
    recalls, tested = iter([0.6, 0.9, 0.4, 0.5]), []

    def evaluate(self, split, *_):
        if split == "test":
            tested.append(self.model.rows(0, self.model.num_items))
            return {}
        return {"recall@50": next(recalls), "users": 1}

    monkeypatch.setattr(module.Trainer, "evaluate", evaluate)
    run = tmp_path / "run"
    assert api.train(dataset.path, run, config())["test_step"] == 20
    assert torch.equal(tested[0], tensors(run, "best")["model/table.weight"])
    assert not torch.equal(tested[0], tensors(run)["model/table.weight"])


def test_an_existing_folder_is_never_touched(dataset, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="exists already.*--resume"):
        api.train(dataset.path, tmp_path / "run", config())
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_without_checkpoints_the_last_weights_are_tested(finished, dataset, tmp_path):
    run = tmp_path / "run"
    result = api.train(dataset.path, run, config(checkpoints="none"))
    assert not list((run / "checkpoints").iterdir())
    assert result["test_step"] == 40 and log(run) == log(finished[0])
    for part in ("best_step", "valid"):
        assert result[part] == finished[1][part]
    trained = module.make_model(config().model, dataset.num_items, seed=1)
    checkpoint.restore_training_state(
        finished[0] / "checkpoints" / "last", TrainingStep(trained, config())
    )
    assert result["test"] == module.evaluate(trained, dataset, "test")
    with pytest.raises(RunFolderError, match="kept no weights: got train.checkpoints 'none'"):
        api.load(run)


def test_only_the_best_weights_are_kept(finished, dataset, tmp_path):
    run = tmp_path / "run"
    result = api.train(dataset.path, run, config(checkpoints="best"))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["best"]
    assert same(tensors(run, "best"), tensors(finished[0], "best"))
    assert result["test"] == finished[1]["test"]
    assert result["test_step"] == result["best_step"]
    with pytest.raises(RunFolderError, match="nothing to continue from: got train.checkpoints"):
        api.resume(run)


def test_bad_data_leaves_no_run_folder(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        api.train(tmp_path / "nothing", tmp_path / "run", config())
    (tmp_path / "bad.csv").write_text("")
    with pytest.raises(DataError, match="bad.csv: the file is empty"):
        api.train(tmp_path / "bad.csv", tmp_path / "run", config())
    assert not (tmp_path / "run").exists()


def test_changed_data_and_damaged_checkpoints_are_refused(finished, raw_file, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    file = run / "checkpoints" / "last" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptFileError, match="model.safetensors: checksum mismatch"):
        api.resume(run)
    record = files.read_checked_json(run / "data.json")
    del record["crc32"]
    files.write_checked_json(run / "data.json", record | {"checksum": "0"})
    with pytest.raises(DataError, match="changed since the run began"):
        api.resume(run)


def test_a_loss_that_is_not_finite_updates_nothing(dataset, tmp_path):
    broken = Config(
        model=config().model,
        loss=config().loss,
        optim=OptimConfig(lr=1e18),
        train=config().train,
    )
    with pytest.raises(NonFiniteError, match=r"step \d+: .*nothing was updated.*smaller optim.lr"):
        api.train(dataset.path, tmp_path / "run", broken)


def test_a_raw_file_is_prepared_in_the_run_folder(raw_file, tmp_path, monkeypatch):
    open_data, before = api.open_data, []

    def watched(*arguments):
        before.append((tmp_path / "run").exists())  # killed now, the run can be started again
        return open_data(*arguments)

    monkeypatch.setattr(api, "open_data", watched)
    api.train(raw_file, tmp_path / "run", config(steps=2, eval_every=2))
    assert before == [False]
    assert (tmp_path / "run" / "data" / "manifest.json").is_file()
    assert api.load(tmp_path / "run").item_table["item_id"].to_list()[0].startswith("t")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert api.resume(tmp_path / "moved")["best_step"] == 2
