"""What it costs a training step to look for NaN and infinity, by part.

    python -m bench.finite_checks --save finite_checks_cpu_368k

Steps of one training take turns, in random order, with all parts, with one, and with none: turns of
many steps differ by more than the checks cost.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from bench import results
from remi_fast import optim
from remi_fast.benchmark.steps import Data, ours
from remi_fast.config import Config
from remi_fast.kernels.native import C
from remi_fast.training.dense_adam import DenseAdam
from remi_fast.training.trainer import set_threads

WARM_UP = 500  # steps
PARTS = ("moments of the rows", "gradients and extractor")
CONTESTANTS = {"none": set[str](), "all": set(PARTS)} | {part: {part} for part in PARTS}


@contextmanager
def switched() -> Iterator[set[str]]:
    """A region where steps look only at the parts that are in this set."""
    on: set[str] = set()
    gather, joined, step = optim.kernel.gather, optim.joined, DenseAdam.step_if_finite

    def some_gather(*arguments: Any, check_moments: bool, **options: Any) -> Any:
        return gather(*arguments, check_moments=PARTS[0] in on, **options)

    def some_joined(parts: Sequence[Tensor]) -> tuple[Tensor, bool]:
        if PARTS[1] in on:
            return joined(parts)
        whole = torch.empty(sum(map(len, parts)), *parts[0].shape[1:])
        return whole, C.join([x.detach().numpy() for x in parts], whole.numpy(), look=False)

    def some_step(self: DenseAdam) -> bool:
        if PARTS[1] in on:
            return step(self)
        assert self._native is not None
        gradients = [x.grad.numpy() for x in self._parameters]
        return self._native.native.step(self.param_groups[0]["lr"], gradients, look=False)

    with (
        mock.patch.object(optim.kernel, "gather", some_gather),
        mock.patch.object(optim, "joined", some_joined),
        mock.patch.object(DenseAdam, "step_if_finite", some_step),
    ):
        yield on


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=368_000)
    parser.add_argument("--steps", type=int, default=2000, help="of each contestant")
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    set_threads(0)
    run = ours(Data(arguments.items, 100_000), Config()).run
    for _ in range(WARM_UP):
        run()
    taken: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    generator = np.random.default_rng(0)
    with switched() as on:
        for _ in range(arguments.steps):
            for name in generator.permutation(list(CONTESTANTS)):
                on.clear()
                on.update(CONTESTANTS[name])
                start = time.perf_counter()
                run()
                taken[name].append(1e3 * (time.perf_counter() - start))
    table = {}
    for name, times in taken.items():
        low, median, high = np.percentile(times, [25, 50, 75])
        table[name] = {"ms": median, "quartiles": [low, high]}
        table[name]["ratio"] = median / table["none"]["ms"]
        print(f"{name:<24}{median:8.3f} ms ({low:.3f} to {high:.3f}){table[name]['ratio']:8.3f}")
    if arguments.save:
        print(results.save(arguments.save, table))


if __name__ == "__main__":
    main()
