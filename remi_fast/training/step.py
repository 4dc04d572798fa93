"""One training step: ids in, loss out, tables updated."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from remi_fast.config import Config
from remi_fast.errors import NonFiniteError
from remi_fast.kernels.finite import all_finite, first_non_finite
from remi_fast.kernels.multi_interest_ihn_loss import multi_interest_ihn_loss_rows
from remi_fast.losses import total_loss
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.optim import DeferredAdam
from remi_fast.training.candidates import Candidates


@dataclass(frozen=True)
class StepLoss:
    """Losses of one step: the total, and the means of its two parts."""

    total: float
    ihn: float
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
        self.table_optimizer = DeferredAdam(model.table, lr=lr, backend=backend)
        self.dense_optimizer = torch.optim.Adam(model.extractor.parameters(), lr=lr, fused=True)

    def __call__(self, step: int, history: Tensor, length: Tensor, target: Tensor) -> StepLoss:
        """Train on one batch: history (B, L), length (B,), target (B,), any integer dtype.

        Raises NonFiniteError, before anything is updated, where something is infinite or NaN that
        the step reads or makes: rows, dense weights, loss, gradients, states of the optimizers.
        The message names step, tensor and row.
        """
        loss, backend = self.config.loss, self.config.train.backend
        negatives, log_q = self.candidates(step, target)
        mask_hits = loss.mask_hits or self.candidates.with_targets
        # One gather for all three, so that each row is caught up and updated once.
        rows = self.model.table(torch.cat([history.flatten(), target, negatives]))
        history_rows, target_rows, negative_rows = rows.split(
            [history.numel(), len(target), len(negatives)]
        )
        interests, routing = self.model.extractor(
            history_rows.view(*history.shape, self.model.dim), length, step
        )
        ihn, _, rr = multi_interest_ihn_loss_rows(
            interests,
            target_rows,
            negative_rows,
            routing,
            beta=loss.beta,
            detach_weights=loss.detach_weights,
            log_q=log_q,
            target_ids=target if mask_hits else None,
            negative_ids=negatives if mask_hits else None,
            backend=backend,
        )
        total = total_loss(ihn, rr, loss.rr_lambda)
        mean_rr = 0.0 if rr is None else rr.mean().item()
        result = StepLoss(total.item(), ihn.mean().item(), mean_rr)
        if not math.isfinite(result.total):
            self._check_dense(step)  # the cause, perhaps
            raise NonFiniteError(
                f"step {step}: the loss is {result.total} (ihn {result.ihn}, rr {result.rr}; "
                f"{_first_sample(ihn, rr)}), expected a finite number; nothing was updated. "
                "Try a smaller optim.lr"
            )
        total.backward()
        self._check_dense(step)
        self.table_optimizer.step()  # checks its rows and their gradients itself
        self.dense_optimizer.step()
        self.table_optimizer.zero_grad()
        self.dense_optimizer.zero_grad()
        return result

    def _check_dense(self, step: int) -> None:
        """Raise NonFiniteError unless dense weights, gradients and Adam's state are finite."""
        tensors = list(self._dense_tensors())
        if all_finite([tensor for _, _, tensor in tensors]):
            return
        for what, name, tensor in tensors:
            if (found := first_non_finite(tensor)) is not None:
                index, value = found
                raise NonFiniteError(
                    f"step {step}: extractor: {what} {name}: got {value} in row {index[0]}, "
                    f"column {index[-1]}, expected finite numbers; nothing was updated. "
                    "Try a smaller optim.lr"
                )

    def _dense_tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """What is checked; a gradient, which shows what is wrong elsewhere too, comes last."""
        weights = list(self.model.extractor.named_parameters())
        for name, weight in weights:
            yield "weight", name, weight
            state = self.dense_optimizer.state.get(weight, {})
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in state:
                    yield f"{moment} of", name, state[moment]
        for name, weight in weights:
            if weight.grad is not None:
                yield "gradient of", name, weight.grad


def _first_sample(ihn: Tensor, rr: Tensor | None) -> str:
    for name, part in (("ihn", ihn), ("rr", rr)):
        if part is not None and (found := first_non_finite(part)) is not None:
            (sample, *_), value = found
            return f"{name} of sample {sample} is {value}"
    return "of finite samples"
