"""A beta that holds the effective share of the negatives at a target: tried, and dropped.

    python -m bench.self_tuning_beta DATA --out RUNS --shares 0.5 0.9 0.97 --save self_tuning_beta

Every ten steps the beta is found, by bisection, at which the importance weights of 32 users have
exp(entropy) = share * N on average; beta goes a tenth of the way there. docs/choosing.md has what
came of it.
"""

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench import results
from remi_fast import api
from remi_fast.config import Config, LossConfig, TrainConfig
from remi_fast.kernels.reference import select_interest
from remi_fast.training import step as training_step
from remi_fast.training.objective import Losses, Objective

USERS, EVERY, MOST, RATE = 32, 10, 10.0, 0.1


def beta_of_share(scores: Tensor, share: float) -> float:
    """The beta at which weights softmax(beta s) of scores (B, N) count for that share of N."""
    low, high = 0.0, MOST
    for _ in range(30):
        beta = (low + high) / 2
        weights = torch.softmax(beta * scores, dim=1)
        entropy = torch.special.entr(weights).sum(dim=1)
        if float((entropy.exp() / scores.shape[1]).mean()) > share:
            low = beta
        else:
            high = beta
    return low


def objective_of(share: float, betas: list[float]) -> type[Objective]:
    """An objective whose beta holds this share; `betas` gets every value it takes."""

    class SelfTuning(Objective):
        def beta_at(self, step: int) -> float:
            return betas[-1]

        def __call__(
            self,
            step: int,
            interests: Tensor,
            target: Tensor,
            negatives: Tensor,
            *rest: Any,
            **o: Any,
        ) -> Losses:
            if step % EVERY == 0:
                with torch.no_grad():
                    query, _ = select_interest(interests[:USERS], target[:USERS])
                    found = beta_of_share(query @ negatives.T, share)
                betas.append(betas[-1] + RATE * (found - betas[-1]) if betas else found)
            return super().__call__(step, interests, target, negatives, *rest, **o)

    return SelfTuning


def main() -> None:
    """Train once for each share, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", help="prepared folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.9, 0.97])
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    config = Config(
        loss=LossConfig(beta=1.0, rr_lambda=100.0),
        train=TrainConfig(steps=arguments.steps, threads=1, checkpoints="best"),
    )
    found = {}
    for share in arguments.shares:
        betas: list[float] = []
        with mock.patch.object(training_step, "Objective", objective_of(share, betas)):
            result = api.train(arguments.data, arguments.out / f"share-{share}", config)
        print(share, result["test"]["recall@50"], betas[:: max(1, len(betas) // 8)])
        found[share] = {"result": result, "betas": betas[::100]}
    if arguments.save:
        print(results.save(arguments.save, {"data": Path(arguments.data).name, "shares": found}))


if __name__ == "__main__":
    main()
