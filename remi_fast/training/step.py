"""One training step: ids in, loss out, tables updated."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remi_fast.config import Config
from remi_fast.errors import NonFiniteError
from remi_fast.kernels.deferred_adam import GatheredRows
from remi_fast.kernels.finite import first_non_finite
from remi_fast.losses import rr_weight, total_loss
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.optim import DeferredAdam
from remi_fast.training.candidates import Candidates
from remi_fast.training.dense_adam import DenseAdam
from remi_fast.training.objective import Losses, Objective
from remi_fast.training.placement import by_triton
from remi_fast.training.precision import arithmetic

RESERVED_STEPS = 1 << 20  # whose step sizes take 46 MB; of a longer training they grow on the way


@dataclass(frozen=True)
class StepLoss:
    """Losses of one step: the total, and the means of its two parts (ranking: ihn or gbce)."""

    total: float
    ranking: float
    rr: float


class Prepared(NamedTuple):
    """All that a step reads but the model."""

    history: Tensor  # (B, L)
    length: Tensor  # (B,)
    target: Tensor  # (B,)
    negatives: Tensor  # (N,)
    log_q: Tensor | None  # (N,)
    rows: GatheredRows  # of the ids of all three, in this order


class TrainingStep:
    """The model, its two optimizers, and what happens to them in a step."""

    def __init__(
        self, model: MultiInterestModel, config: Config, counts: Tensor | None = None
    ) -> None:
        """counts (I,): how often each item occurs in training, for samplers that need it."""
        self.model = model
        self.config = config
        lr, backend, device = config.optim.lr, config.train.backend, model.table.weight.device
        self.candidates = Candidates(
            config.loss,
            model.num_items,
            seed=config.train.seed,
            counts=counts,
            device=device,
            backend=backend,
        )
        self.objective = Objective(
            config.loss, model.num_items, seed=config.train.seed, backend=backend
        )
        self.table_optimizer = DeferredAdam(model.table, lr=lr, backend=backend)
        self.table_optimizer.reserve(min(config.train.steps, RESERVED_STEPS))
        self.dense_optimizer = DenseAdam(model.extractor.parameters(), lr, backend=backend)
        self._arithmetic = partial(arithmetic, config.train.precision, device)
        # On the CPU the loss chooses: its C++ does it in the same pass.
        self._may_select = by_triton(config, device) and config.loss.selection == "hard"
        self._weights = dict(model.extractor.named_parameters())
        self._loss_gradients: dict[tuple[float, int], Tensor] = {}

    def __call__(self, step: int, history: Tensor, length: Tensor, target: Tensor) -> StepLoss:
        """Train on one batch: history (B, L), length (B,), target (B,), any integer dtype.

        Raises NonFiniteError, before anything is updated, where something is infinite or NaN that
        the step reads or makes: rows, dense weights, loss, gradients, states of the optimizers.
        The message names step, tensor and row.
        """
        for optimizer in (self.table_optimizer, self.dense_optimizer):
            optimizer.param_groups[0]["lr"] = self.rate(step)
        ranking, rr = self.forward(step, self.prepare(step, history, length, target))
        result = self._mean_losses(ranking, rr)
        if not math.isfinite(result.total):
            self._name_what_is_not_finite(step)
            raise self._of_loss(step, result, ranking, rr)
        self.backward(ranking, rr)
        rows = self.table_optimizer.collect()
        if not (rows is None or rows.finite) or not self.dense_optimizer.step_if_finite():
            self._name_what_is_not_finite(step)
            self.dense_optimizer.step_if_finite()  # that was a gradient of padding: it is dropped
        self.table_optimizer.apply(rows)
        self.dense_optimizer.zero_grad()
        return result

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.config.optim.lr_at(step, self.config.train.steps)

    def prepare(
        self, step: int | Tensor, history: Tensor, length: Tensor, target: Tensor
    ) -> Prepared:
        """A batch with its negatives, grouped by row. Nothing of the model is read: it can be made
        before the steps that come first. The step is as in `forward`.
        """
        negatives, log_q = self.candidates(step, target)
        rows = self.table_optimizer.group([history, target, negatives])
        return Prepared(history, length, target, negatives, log_q, rows)

    def forward(self, step: int | Tensor, batch: Prepared, *, beta: float | None = None) -> Losses:
        """Ranking losses (B,) and RR (B,), if any, of a batch.

        A step may be a tensor of one int64 on the device, which is not read there; then `beta` is
        the hardness of its negatives. Nothing is waited for on a GPU.
        """
        target, negatives = batch.target, batch.negatives
        mask_hits = self.config.loss.mask_hits or self.candidates.with_targets
        history_rows, target_rows, negative_rows = self.model.table.lookup(
            batch.history, target, negatives, rows=batch.rows
        )
        options: dict[str, Any] = {
            "log_q": batch.log_q,
            "log_scale": self.candidates.log_scale,
            "target_ids": target if mask_hits else None,
            "negative_ids": negatives if mask_hits else None,
            "beta": beta,
        }
        extractor, rows = self.model.extractor, (target_rows, negative_rows)
        with self._arithmetic():
            if self._may_select:
                selected = extractor.select(history_rows, batch.length, target_rows)
                if selected is not None:
                    query, rr = selected
                    return self.objective.of_query(step, query, *rows, **options), rr
            interests, routing = extractor(history_rows, batch.length, step)
            return self.objective(step, interests, *rows, routing, **options)

    def backward(self, ranking: Tensor, rr: Tensor | None) -> None:
        """Gradients of `total_loss`, for the optimizers to collect."""
        losses, gradients = [ranking], [self._mean_gradient(1.0, ranking)]
        if rr is not None and self.config.loss.rr_lambda > 0:
            losses.append(rr)
            gradients.append(self._mean_gradient(rr_weight(self.config.loss.rr_lambda), rr))
        with self._arithmetic():
            torch.autograd.backward(losses, gradients)

    def _mean_gradient(self, weight: float, losses: Tensor) -> Tensor:
        """That of weight * mean(losses); always the same tensor, which costs a GPU no kernel."""
        key = weight, len(losses)
        if key not in self._loss_gradients:
            mean = torch.full_like(losses, weight, requires_grad=False) / len(losses)
            self._loss_gradients[key] = mean
        return self._loss_gradients[key]

    @torch.no_grad()
    def _mean_losses(self, ranking: Tensor, rr: Tensor | None) -> StepLoss:
        total = total_loss(ranking, rr, self.config.loss.rr_lambda)
        mean_rr = 0.0 if rr is None else rr.mean().item()
        return StepLoss(total.item(), ranking.mean().item(), mean_rr)

    def explain(self, step: int, history: Tensor, length: Tensor, target: Tensor) -> None:
        """Raise the NonFiniteError of a step that was held, from the state it started from.

        Makes the step again but for its update. A GPU is waited for.
        """
        ranking, rr = self.forward(step, self.prepare(step, history, length, target))
        result = self._mean_losses(ranking, rr)
        if math.isfinite(result.total):
            self.backward(ranking, rr)
        self._name_what_is_not_finite(step)
        raise self._of_loss(step, result, ranking, rr)

    def _of_loss(
        self, step: int, loss: StepLoss, ranking: Tensor, rr: Tensor | None
    ) -> NonFiniteError:
        name = self.config.loss.name
        return NonFiniteError(
            f"step {step}: the loss is {loss.total} ({name} {loss.ranking}, "
            f"rr {loss.rr}; {_first_sample({name: ranking, 'rr': rr})}), "
            "expected a finite number; nothing was updated. "
            "Try a smaller optim.lr"
        )

    def _name_what_is_not_finite(self, step: int) -> None:
        """Raise NonFiniteError unless rows, weights, gradients and Adam's state are finite."""
        self.table_optimizer.check_rows()  # what is wrong there shows here, too
        made = {
            f"gradient of {name}": weight.grad
            for name, weight in self._weights.items()
            if weight.grad is not None
        }
        for name, tensor in (self.lasting_tensors() | made).items():  # causes first
            if (found := first_non_finite(tensor)) is not None:
                index, value = found
                raise NonFiniteError(
                    f"step {step}: extractor: {name}: got {value} in row {index[0]}, "
                    f"column {index[-1]}, expected finite numbers; nothing was updated. "
                    "Try a smaller optim.lr"
                )
        self.table_optimizer.check_gradients()

    def lasting_tensors(self) -> dict[str, Tensor]:
        """Dense weights and moments: they are updated in place."""
        tensors: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            tensors[f"weight {name}"] = weight
            for moment in ("exp_avg", "exp_avg_sq"):
                if weight in self.dense_optimizer.state:
                    tensors[f"{moment} of {name}"] = self.dense_optimizer.state[weight][moment]
        return tensors


def _first_sample(parts: dict[str, Tensor | None]) -> str:
    for name, part in parts.items():
        if part is not None and (found := first_non_finite(part)) is not None:
            (sample, *_), value = found
            return f"{name} of sample {sample} is {value}"
    return "of finite samples"
