"""Training from a prepared dataset to a run folder."""

import gc
import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remi_fast import files
from remi_fast.config import Config
from remi_fast.data.dataset import Dataset
from remi_fast.errors import ConfigError, DataError, RunFolderError
from remi_fast.kernels.threads import set_num_threads
from remi_fast.models.recommender import MultiInterestModel, make_model
from remi_fast.retrieval.evaluate import evaluate, held_out_users
from remi_fast.retrieval.metrics import SELECTION_METRIC
from remi_fast.training import checkpoint, popularity
from remi_fast.training.candidates import check_number, needs_counts
from remi_fast.training.diagnostics import diagnose
from remi_fast.training.engines import make_engine
from remi_fast.training.frequencies import target_frequencies, training_counts
from remi_fast.training.placement import available_memory, training_device
from remi_fast.training.progress import TrainingProgress
from remi_fast.training.run_folder import MetricsLog, RunFolder
from remi_fast.training.step import StepLoss, TrainingStep

LOG_EVERY = 100  # steps between two lines of metrics.jsonl

logger = logging.getLogger(__name__)


class Trainer:
    """One training run: the loop, and the state it carries from step to step."""

    def __init__(self, run: RunFolder, dataset: Dataset, config: Config) -> None:
        set_threads(config.train.threads)
        self.run, self.dataset, self.config = run, dataset, config
        self.model = new_model(config, dataset.num_items).to(training_device(config))
        self.training_step = TrainingStep(self.model, config, self._counts())
        self.step = 0
        self.best: dict[str, Any] = {"step": 0, "valid": {}}
        self.evaluations_since_best = 0
        self.train_seconds = 0.0
        self.interrupted = False
        self._mean = _RunningMean()

    def _counts(self) -> Tensor | None:
        if not needs_counts(self.config.loss):
            return None
        if self.config.loss.sampler == "popularity":
            return training_counts(self.dataset)
        return target_frequencies(self.dataset, self.config.train)

    def restore(self) -> None:
        """Continue from the last checkpoint; from the start if there is none yet."""
        if not self.run.last.exists():
            return
        self.run.items()
        progress = checkpoint.restore_training_state(self.run.last, self.training_step)
        try:
            self.step, self.best = progress["step"], progress["best"]
            self.evaluations_since_best = int(progress["evaluations_since_best"])
            self.train_seconds = float(progress["train_seconds"])
            self._mean.restore(progress["running_mean"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{self.run.last}: got a progress without {error}") from None
        if self.step != self.training_step.table_optimizer.steps_taken:
            taken = self.training_step.table_optimizer.steps_taken
            raise RunFolderError(f"{self.run.last}: got step {self.step}, expected {taken}")
        if self.best["step"] > 0:  # needed at the end, and better known now
            checkpoint.verify_weights(self.run.best)

    def fit(self) -> dict[str, Any]:
        """Train until the steps or the patience are used up, or Ctrl-C; return the result."""
        self._make_steps()
        if self.interrupted:
            self._save()
            return {"interrupted": True, "step": self.step}
        return self._finish()

    def _make_steps(self) -> None:
        train = self.config.train
        with (
            MetricsLog(self.run, resume_step=self.step) as log,
            closing(make_engine(self.training_step, self.dataset, self.step)) as engine,
            self._stop_on_interrupt(),
            TrainingProgress(train) as shown,
        ):
            while self.step < train.steps and not (self._out_of_patience() or self.interrupted):
                started = time.perf_counter()
                losses = engine.advance(self._steps_to_the_next_stop())
                self.step += len(losses)
                self.train_seconds += time.perf_counter() - started
                self._log(log, losses)
                shown.update(self)
                evaluated = self.step % train.eval_every == 0 or self.step == train.steps
                if evaluated:
                    shown.evaluated(self, self._validate(log))
                if self.step % (train.checkpoint_every or train.eval_every) == 0 or evaluated:
                    self._save()
                    gc.collect(1)  # what saving leaves in cycles would wait for a rare full one

    def _steps_to_the_next_stop(self) -> int:
        """To the next line of the log, validation, checkpoint, or the end."""
        train = self.config.train
        periods = LOG_EVERY, train.eval_every, train.checkpoint_every or train.eval_every
        return min(train.steps - self.step, *(each - self.step % each for each in periods))

    def _log(self, log: MetricsLog, losses: list[StepLoss]) -> None:
        for loss in losses:
            self._mean.add(loss)
        if self.step % LOG_EVERY == 0:
            means = self._mean.take(self.config.loss.name)
            last = {"beta": self.beta, "lr": self.training_step.rate(self.step - 1)}
            log.write({"step": self.step, **means, **last, **self.speed()})

    @property
    def beta(self) -> float:
        """Hardness of the last step's negatives."""
        return self.config.loss.beta_at(self.step - 1)

    def speed(self) -> dict[str, float]:
        """Time in training steps alone, and samples a second of it."""
        samples = self.step * self.config.train.batch_size
        seconds = max(self.train_seconds, 1e-9)
        return {"samples_per_s": round(samples / seconds, 1), "seconds": round(seconds, 3)}

    @property
    def mean_loss(self) -> float:
        """Mean loss since the last log line; right after one, the one it had."""
        return self._mean.mean()

    def _validate(self, log: MetricsLog) -> dict[str, float]:
        metrics = self.evaluate("valid", self.config.train.eval_users or None)
        log.write({"step": self.step, "split": "valid", **metrics})
        found = diagnose(self.model, self.dataset, beta=self.beta, seed=self.config.train.seed)
        log.write({"step": self.step, "split": "diagnostics", **found})
        if metrics[SELECTION_METRIC] > self.best["valid"].get(SELECTION_METRIC, -math.inf):
            self.best = {"step": self.step, "valid": metrics}
            self.evaluations_since_best = 0
            if self.config.train.checkpoints != "none":
                checkpoint.save_weights(self.run.best, self.model, self.best)
        else:
            self.evaluations_since_best += 1
        return metrics

    def evaluate(self, split: str, max_users: int | None = None) -> dict[str, float]:
        """Recall, hit rate and ndcg at 20 and 50 of the model as it is now."""
        return evaluate(self.model, self.dataset, split, max_users=max_users)

    def _out_of_patience(self) -> bool:
        return self.evaluations_since_best >= self.config.train.patience

    def _save(self) -> None:
        if self.config.train.checkpoints != "all":
            return
        progress = {
            "step": self.step,
            "best": self.best,
            "evaluations_since_best": self.evaluations_since_best,
            "train_seconds": self.train_seconds,
            "running_mean": self._mean.state(),
        }
        checkpoint.save_training_state(self.run.last, self.training_step, progress)

    def _finish(self) -> dict[str, Any]:
        """Test the best weights, or the last ones where none are kept, and write result.json."""
        tested = self.step
        if self.config.train.checkpoints != "none":
            self._load_best()
            tested = self.best["step"]
        result = {
            "best_step": self.best["step"],
            "valid": self.best["valid"],
            "test_step": tested,
            "test": self.evaluate("test"),
            "train": {"steps": self.step, **self.speed()},
        }
        files.write_json(self.run.result_file, result)
        return result

    def _load_best(self) -> None:
        """End the training: the best weights take the place of the last, the optimizers go."""
        self.model.table.source = None
        del self.training_step
        checkpoint.load_weights(self.run.best, self.model)

    @contextmanager
    def _stop_on_interrupt(self) -> Iterator[None]:
        """Ctrl-C ends the step it comes in; a second one stops at once."""

        def stop(signum: int, frame: FrameType | None) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, previous)

        try:
            previous = signal.signal(signal.SIGINT, stop)
        except ValueError:  # not in the main thread: the caller handles interrupts
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


class _RunningMean:
    """Mean losses since the last log line; part of the checkpoint, so that logs resume alike."""

    def __init__(self) -> None:
        self._sums = [0.0, 0.0, 0.0]
        self._count = 0
        self._last = math.nan

    def add(self, loss: StepLoss) -> None:
        for i, value in enumerate((loss.total, loss.ranking, loss.rr)):
            self._sums[i] += value
        self._count += 1

    def mean(self) -> float:
        return self._sums[0] / self._count if self._count else self._last

    def take(self, ranking: str) -> dict[str, float]:
        values = [value / self._count for value in self._sums]
        self._sums, self._count, self._last = [0.0, 0.0, 0.0], 0, values[0]
        return dict(zip(("loss", ranking, "rr"), values, strict=True))

    def state(self) -> list[float]:
        return [*self._sums, self._count]

    def restore(self, state: list[float]) -> None:
        *self._sums, count = state
        self._count = int(count)


def set_threads(threads: int) -> None:
    """Use so many CPU threads, in PyTorch and in the C++ code; 0 is one a core."""
    torch.set_num_threads(set_num_threads(threads))


def new_model(config: Config, num_items: int) -> MultiInterestModel:
    """The model of a run before its first step."""
    return make_model(
        config.model,
        num_items,
        seed=config.train.seed,
        through_routing=config.loss.rr_lambda > 0,
        backend=config.train.backend,
    )


def load_model(run: RunFolder, config: Config, num_items: int) -> MultiInterestModel:
    """The best weights of a run. Raises RunFolderError if there are none yet."""
    if config.train.checkpoints == "none":
        raise RunFolderError(
            f"{run.path}: kept no weights: got train.checkpoints 'none', expected 'all' or 'best'"
        )
    if not files.standing(run.best).exists():
        raise RunFolderError(
            f"{run.path}: has no best checkpoint yet; resume it until its first validation"
        )
    if config.train.backend == "triton":  # of a GPU that need not be here
        config = replace(config, train=replace(config.train, backend="auto"))
    model = new_model(config, num_items)
    checkpoint.load_weights(run.best, model)
    return model


def check(dataset: Dataset, config: Config) -> None:
    """Raise DataError or ConfigError, before anything is made, for what cannot be trained."""
    for split in ("valid", "test"):
        held_out_users(dataset, split)
    lengths = np.diff(dataset.train_spans)
    if config.model.name != "pop" and not (lengths > config.train.min_history).any():
        raise DataError(
            f"no user to train on: got at most {lengths.max(initial=0)} items of each of "
            f"{len(lengths)}, expected one with more than train.min_history "
            f"{config.train.min_history}"
        )
    check_number(config.loss, dataset.num_items)
    cpu = torch.device("cpu")
    device = cpu if config.model.name == "pop" else training_device(config)
    _check_memory(config, dataset, device)


def _check_memory(config: Config, dataset: Dataset, device: torch.device) -> None:
    """What is needed at the very least: the table with its moments, the batch's vectors."""
    num_items = dataset.num_items
    model, batch = config.model, config.train.batch_size
    table = 0 if model.name == "pop" else 3 * num_items * model.dim
    samples = batch * (model.max_history + model.num_interests) * model.dim
    routing = batch * model.max_history * model.num_interests
    negatives = num_items - 1 if config.loss.sampler == "full" else config.loss.num_negatives
    need = 4 * (table + samples + routing + negatives * model.dim)
    there = available_memory(device)
    if need > there:
        where = "free on the GPU" if device.type == "cuda" else "of this machine"
        raise ConfigError(
            f"model.dim {model.dim}, num_interests {model.num_interests}, max_history "
            f"{model.max_history}, train.batch_size {batch}, {negatives} negatives: with "
            f"{num_items} items these need {need / 2**30:,.0f} GiB of memory or more, expected at "
            f"most the {there / 2**30:,.0f} GiB {where}"
        )


def start(dataset: Dataset, run: RunFolder, config: Config) -> dict[str, Any]:
    """Train in a run folder that was just made, on the data that it records."""
    if config.model.name == "pop":
        return popularity.fit(new_model(config, dataset.num_items), run, dataset, config.train)
    return Trainer(run, dataset, config).fit()


def resume(path: Path) -> dict[str, Any]:
    """Continue the run at `path` where its last checkpoint left it, bit for bit."""
    run = RunFolder.open(path)
    config = run.config()
    if config.train.checkpoints != "all":
        raise RunFolderError(
            f"{path}: has nothing to continue from: got train.checkpoints "
            f"{config.train.checkpoints!r}, expected 'all'"
        )
    if config.model.name == "pop":
        raise RunFolderError(f"{path}: has nothing to continue: pop is counted, not trained")
    dataset = run.dataset()
    with run.training():
        run.recover()
        trainer = Trainer(run, dataset, config)
        trainer.restore()
        return trainer.fit()
