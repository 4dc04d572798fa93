"""One training step: ids in, loss out, tables updated."""

import math
from dataclasses import dataclass

from torch import Tensor

from remi_fast.config import Config
from remi_fast.errors import NonFiniteError
from remi_fast.kernels.finite import first_non_finite
from remi_fast.losses import total_loss
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.optim import DeferredAdam
from remi_fast.training.candidates import Candidates
from remi_fast.training.dense_adam import DenseAdam
from remi_fast.training.objective import Objective

RESERVED_STEPS = 1 << 20  # whose step sizes take 46 MB; of a longer training they grow on the way


@dataclass(frozen=True)
class StepLoss:
    """Losses of one step: the total, and the means of its two parts (ranking: ihn or gbce)."""

    total: float
    ranking: float
    rr: float


class TrainingStep:
    """The model, its two optimizers, and what happens to them in a step."""

    def __init__(
        self, model: MultiInterestModel, config: Config, counts: Tensor | None = None
    ) -> None:
        """counts (I,): how often each item occurs in training, for samplers that need it."""
        self.model = model
        self.config = config
        lr, backend = config.optim.lr, config.train.backend
        self.candidates = Candidates(
            config.loss, model.num_items, seed=config.train.seed, counts=counts, backend=backend
        )
        self.objective = Objective(
            config.loss, model.num_items, seed=config.train.seed, backend=backend
        )
        self.table_optimizer = DeferredAdam(model.table, lr=lr, backend=backend)
        self.table_optimizer.reserve(min(config.train.steps, RESERVED_STEPS))
        self.dense_optimizer = DenseAdam(model.extractor.parameters(), lr, backend=backend)
        self._weights = dict(model.extractor.named_parameters())

    def __call__(self, step: int, history: Tensor, length: Tensor, target: Tensor) -> StepLoss:
        """Train on one batch: history (B, L), length (B,), target (B,), any integer dtype.

        Raises NonFiniteError, before anything is updated, where something is infinite or NaN that
        the step reads or makes: rows, dense weights, loss, gradients, states of the optimizers.
        The message names step, tensor and row.
        """
        loss = self.config.loss
        negatives, log_q = self.candidates(step, target)
        mask_hits = loss.mask_hits or self.candidates.with_targets
        history_rows, target_rows, negative_rows = self.model.table.lookup(
            history, target, negatives
        )
        interests, routing = self.model.extractor(history_rows, length, step)
        ranking, rr = self.objective(
            step,
            interests,
            target_rows,
            negative_rows,
            routing,
            log_q=log_q,
            log_scale=self.candidates.log_scale,
            target_ids=target if mask_hits else None,
            negative_ids=negatives if mask_hits else None,
        )
        total = total_loss(ranking, rr, loss.rr_lambda)
        mean_rr = 0.0 if rr is None else rr.mean().item()
        result = StepLoss(total.item(), ranking.mean().item(), mean_rr)
        if not math.isfinite(result.total):
            self._name_what_is_not_finite(step)
            raise NonFiniteError(
                f"step {step}: the loss is {result.total} ({loss.name} {result.ranking}, "
                f"rr {result.rr}; {_first_sample({loss.name: ranking, 'rr': rr})}), "
                "expected a finite number; nothing was updated. "
                "Try a smaller optim.lr"
            )
        total.backward()
        rows = self.table_optimizer.collect()
        if not (rows is None or rows.finite) or not self.dense_optimizer.step_if_finite():
            self._name_what_is_not_finite(step)
            self.dense_optimizer.step_if_finite()  # that was a gradient of padding: it is dropped
        self.table_optimizer.apply(rows)
        self.dense_optimizer.zero_grad()
        return result

    def _name_what_is_not_finite(self, step: int) -> None:
        """Raise NonFiniteError unless rows, weights, gradients and Adam's state are finite."""
        self.table_optimizer.check_rows()  # what is wrong there shows here, too
        made = {
            f"gradient of {name}": weight.grad
            for name, weight in self._weights.items()
            if weight.grad is not None
        }
        for name, tensor in (self._lasting_tensors() | made).items():  # causes first
            if (found := first_non_finite(tensor)) is not None:
                index, value = found
                raise NonFiniteError(
                    f"step {step}: extractor: {name}: got {value} in row {index[0]}, "
                    f"column {index[-1]}, expected finite numbers; nothing was updated. "
                    "Try a smaller optim.lr"
                )
        self.table_optimizer.check_gradients()

    def _lasting_tensors(self) -> dict[str, Tensor]:
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
