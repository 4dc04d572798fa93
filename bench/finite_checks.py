"""What it costs a training step to look for NaN and infinity, with and without in turns.

python -m bench.finite_checks --save finite_checks_cpu_368k
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

from bench import results
from bench.end_to_end import Data, ours
from bench.turns import compared, show, take_turns
from remi_fast import optim
from remi_fast.config import Config
from remi_fast.kernels import deferred_adam
from remi_fast.training import step
from remi_fast.training.trainer import set_threads

WITH, WITHOUT = "with checks", "without"


@contextmanager
def unchecked() -> Iterator[None]:
    """A region whose training steps look at the loss only."""
    gather = deferred_adam.gather

    def blind(*arguments: Any, check_finite: bool, **options: Any) -> Any:
        return gather(*arguments, **options)

    with (
        mock.patch.object(optim.kernel, "gather", blind),
        mock.patch.object(optim, "all_finite", lambda tensors: True),
        mock.patch.object(step.TrainingStep, "_check_dense", lambda self, step: None),
    ):
        yield


def without(run: Callable[[], object]) -> None:
    """A hundred unchecked steps: patching costs nothing then."""
    with unchecked():
        hundred(run)


def hundred(run: Callable[[], object]) -> None:
    """A hundred steps."""
    for _ in range(100):
        run()


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=368_000)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    set_threads(0)
    run = ours(Data(arguments.items, 100_000), Config())  # one for both: its memory is the same
    hundred(run)
    runs = {WITHOUT: partial(without, run), WITH: partial(hundred, run)}
    table = compared(take_turns(runs, arguments.rounds, 0.5), WITHOUT)
    print("100 steps each")
    show(table, WITHOUT)
    if arguments.save:
        print(results.save(arguments.save, table))


if __name__ == "__main__":
    main()
