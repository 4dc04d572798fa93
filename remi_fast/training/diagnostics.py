"""What a model does with its interests and its negatives, measured on validation users."""

import math

import numpy as np
import torch
from torch import Tensor

from remi_fast.data.dataset import Dataset
from remi_fast.kernels.negatives import sample_negatives
from remi_fast.kernels.reference import select_interest
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.retrieval.histories import even_sample, last_items

USERS, NEGATIVES = 512, 1280  # an even sample: a few milliseconds beside a validation


@torch.no_grad()
def diagnose(
    model: MultiInterestModel, dataset: Dataset, *, beta: float, seed: int
) -> dict[str, float]:
    """Means over validation users, of whom the first held-out item is the target.

    routing_entropy         of an interest's routing, 1 = all items of the history alike, 0 = one;
                            histories of one item are left out
    largest_routing_weight  of an interest: near 1, it has collapsed onto one item
    interests_used          exp(entropy of how often each interest is the target's): 1 to K
    interest_similarity     cosine between two interests of a user: near 1, they are one
    effective_negatives     exp(entropy of the importance weights softmax(beta s)), as a share of N
    hardness                mean score of the negatives under these weights, less that under equal
                            ones, in standard deviations of the scores
    target_margin           score of the target less the mean under the weights
    Without routing, or with K = 1, those that make no sense are missing.
    """
    spans = dataset.eval_split("valid").spans
    if not len(spans):
        return {}
    start, cut, _ = spans[even_sample(len(spans), USERS)].T
    padded, lengths = last_items(dataset.items, start, cut, model.max_history)
    device, length = model.table.weight.device, torch.from_numpy(lengths)
    history = model.table(torch.from_numpy(padded).to(device))
    interests, routing = model.extractor(history, length.to(device))
    interests, routing = interests.cpu(), None if routing is None else routing.cpu()
    target = model.read(torch.from_numpy(dataset.items[cut].astype(np.int64)).to(device)).cpu()
    query, won = select_interest(interests, target)
    negatives = sample_negatives(NEGATIVES, model.num_items, seed=seed, step=0)
    found = _of_negatives(query, target, model.read(negatives.to(device)).cpu(), beta)
    if interests.shape[1] > 1:
        found |= _of_interests(interests, won)
    if routing is not None:
        found |= _of_routing(routing, length)
    return {name: float(value) for name, value in found.items()}


def routing_shares(routing: Tensor) -> Tensor:
    """Weights (B, K, L) of every interest that sum to 1; those of capsules do not."""
    return routing / routing.sum(dim=2, keepdim=True).clamp_min(1e-12)


def interest_shares(won: Tensor, num_interests: int) -> Tensor:
    """(K,), of the targets that each interest is nearest to; won (n,) is which that is."""
    return torch.bincount(won, minlength=num_interests) / len(won)


def interests_used(shares: Tensor) -> Tensor:
    """exp(entropy) of shares (K,): 1 to K."""
    return torch.special.entr(shares).sum().exp()


def _of_routing(routing: Tensor, length: Tensor) -> dict[str, Tensor]:
    weights = routing_shares(routing)
    entropy = torch.special.entr(weights).sum(dim=2)
    several = length > 1
    return {
        "routing_entropy": (entropy[several] / length[several, None].log()).mean(),
        "largest_routing_weight": weights[several].amax(dim=2).mean(),
    }


def _of_interests(interests: Tensor, won: Tensor) -> dict[str, Tensor]:
    count = interests.shape[1]
    unit = torch.nn.functional.normalize(interests, dim=2)
    cosines = unit @ unit.transpose(1, 2)
    pairs = torch.ones(count, count, dtype=torch.bool).triu(1)
    return {
        "interests_used": interests_used(interest_shares(won, count)),
        "interest_similarity": cosines[:, pairs].mean(),
    }


def _of_negatives(
    query: Tensor, target: Tensor, negatives: Tensor, beta: float
) -> dict[str, Tensor]:
    scores = query @ negatives.T
    weights = torch.softmax(beta * scores, dim=1)
    entropy = torch.special.entr(weights).sum(dim=1)
    hard = (weights * scores).sum(dim=1)
    spread = scores.std(dim=1).clamp_min(1e-12)
    return {
        "effective_negatives": (entropy - math.log(len(negatives))).exp().mean(),
        "hardness": ((hard - scores.mean(dim=1)) / spread).mean(),
        "target_margin": ((query * target).sum(dim=1) - hard).mean(),
    }
