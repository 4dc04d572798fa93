"""Controllable diversity: lists that weigh the scores against the variety of their categories.

The aggregation of ComiRec (Cen et al., KDD 2020, Algorithm 1): a list S of a user u is worth
sum of f(u, i) over S + coefficient * pairs of S with different categories, and is filled greedily.
"""

import math

import torch
from torch import Tensor

MAX_COEFFICIENT = 1e30  # what is far above any score gives the same list; products stay finite


def check_coefficient(value: float) -> None:
    """Raise TypeError or ValueError for what is no coefficient of diversity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"diversity: got {value!r}, expected a number")
    if not (math.isfinite(value) and 0 <= value <= MAX_COEFFICIENT):
        raise ValueError(f"diversity: got {value}, expected 0 to {MAX_COEFFICIENT:g}")


def candidates_for(k: int, num_interests: int, num_items: int) -> int:
    """How many candidates to search for a list of k: as many as the K lists of k published."""
    return min(k * num_interests, num_items - 1)


def diversify(scores: Tensor, categories: Tensor, k: int, coefficient: float) -> Tensor:
    """The greedy list of every user: positions among the candidates, first choice first.

    Each place goes to the candidate with the largest score + coefficient * (how many of those
    chosen before have another category), of equal ones to the earlier. At coefficient 0 that is
    the plain top k.

    Args:
        scores: (n, M) float32, best first, -inf where there is no candidate.
        categories: (n, M) integers, of the candidates.
        k: length of the lists, 1 to M.
        coefficient: 0 to 1e30, in the unit of the scores.

    Returns:
        (n, k) int64 positions in [0, M), distinct; where a user has fewer than k candidates, those
        of the -inf are last.

    Raises:
        ValueError: for another k or coefficient, or shapes that differ. TypeError: no number.
    """
    check_coefficient(coefficient)
    if scores.ndim != 2 or scores.shape != categories.shape:
        raise ValueError(
            f"categories: got shape {tuple(categories.shape)}, expected that of the scores, "
            f"{tuple(scores.shape)}, two-dimensional"
        )
    users, candidates = scores.shape
    if not 1 <= k <= candidates:
        raise ValueError(f"k: got {k}, expected 1 to the {candidates} candidates")
    left = scores.double()  # a copy: -inf where chosen
    real = (scores > -torch.inf).sum(1)
    same = torch.zeros_like(left)  # how many of the chosen have the category of the candidate
    chosen = torch.empty(users, k, dtype=torch.int64, device=scores.device)
    for place in range(k):
        # That all differ from `place - same` of the chosen adds the same to all but `same`.
        best = torch.add(left, same, alpha=-coefficient).argmax(1)
        best = torch.where(real > place, best, place)  # what is not real lies behind all that is
        chosen[:, place] = best
        left.scatter_(1, best[:, None], -torch.inf)
        same += categories == categories.gather(1, best[:, None])
    return chosen
