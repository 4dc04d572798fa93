"""One training step: ids in, loss out, tables updated."""

from dataclasses import dataclass

import torch

from remi_fast.config import Config
from remi_fast.errors import NonFiniteError
from remi_fast.kernels.multi_interest_ihn_loss import multi_interest_ihn_loss_rows
from remi_fast.kernels.negatives import sample_negatives
from remi_fast.losses import total_loss
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.optim import DeferredAdam


@dataclass(frozen=True)
class StepLoss:
    """Losses of one step: the total, and the means of its two parts."""

    total: float
    ihn: float
    rr: float


class TrainingStep:
    """The model, its two optimizers, and what happens to them in a step."""

    def __init__(self, model: MultiInterestModel, config: Config) -> None:
        self.model = model
        self.config = config
        lr, backend = config.optim.lr, config.train.backend
        self.table_optimizer = DeferredAdam(model.table, lr=lr, backend=backend)
        self.dense_optimizer = torch.optim.Adam(model.extractor.parameters(), lr=lr, fused=True)

    def __call__(
        self, step: int, history: torch.Tensor, length: torch.Tensor, target: torch.Tensor
    ) -> StepLoss:
        """Train on one batch: history (B, L), length (B,), target (B,), any integer dtype.

        Raises NonFiniteError, before anything is updated, if the loss is not finite.
        """
        loss, backend = self.config.loss, self.config.train.backend
        negatives = sample_negatives(
            loss.num_negatives,
            self.model.num_items,
            seed=self.config.train.seed,
            step=step,
            sampler=loss.sampler,
            backend=backend,
        )
        # One gather for all three, so that each row is caught up and updated once.
        rows = self.model.table(torch.cat([history.flatten(), target, negatives]))
        history_rows, target_rows, negative_rows = rows.split(
            [history.numel(), len(target), len(negatives)]
        )
        interests, routing = self.model.extractor(
            history_rows.view(*history.shape, self.model.dim), length
        )
        ihn, _, rr = multi_interest_ihn_loss_rows(
            interests,
            target_rows,
            negative_rows,
            routing,
            beta=loss.beta,
            detach_weights=loss.detach_weights,
            target_ids=target if loss.mask_hits else None,
            negative_ids=negatives if loss.mask_hits else None,
            backend=backend,
        )
        assert rr is not None
        total = total_loss(ihn, rr, loss.rr_lambda)
        result = StepLoss(total.item(), ihn.mean().item(), rr.mean().item())
        if not torch.isfinite(total):
            raise NonFiniteError(
                f"step {step}: the loss is {result.total} (ihn {result.ihn}, rr {result.rr}), "
                "expected a finite number; nothing was updated. Try a smaller optim.lr"
            )
        total.backward()
        self.table_optimizer.step()
        self.dense_optimizer.step()
        self.table_optimizer.zero_grad()
        self.dense_optimizer.zero_grad()
        return result
