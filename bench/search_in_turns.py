"""Exact search beside faiss, and approximate search at a recall of 0.99, in turns.

    python -m bench.search_in_turns --save search_in_turns
    python -m bench.search_in_turns --run RUN --save search_of_a_run

10,000 users x 4 interests, top 50 of 368,000 items, dimension 64: generated vectors, or with --run
the vectors of a trained model and the interests of its test users (again and again where they are
fewer). Checked first: ids equal to those of faiss's exact index, but for near-ties, which float64
settles. The whole of `evaluate` takes its turns beside the bare products of its scores.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import results
from remi_fast import load
from remi_fast.benchmark.generated import sequences
from remi_fast.benchmark.search import EXACT, contestants, generated
from remi_fast.benchmark.turns import compared, make_all, take_turns
from remi_fast.data.dataset import EvalSplit
from remi_fast.models.item_table import ItemTable
from remi_fast.retrieval.evaluate import evaluate
from remi_fast.retrieval.faiss_index import FaissSearch, recall_of
from remi_fast.retrieval.histories import last_items
from remi_fast.retrieval.search import search
from remi_fast.training.run_folder import RunFolder
from remi_fast.training.trainer import set_threads

K = 50


def of_a_run(run: Path, users: int) -> tuple[Tensor, ItemTable]:
    """The same from a trained model."""
    model, dataset = load(run).model, RunFolder.open(run).dataset()
    start, cut, _ = dataset.eval_split("test").spans.T
    history, length = last_items(dataset.items, start, cut, model.max_history)
    interests = model.interests(torch.from_numpy(history), torch.from_numpy(length))
    return interests[torch.arange(users) % len(interests)], model.table


class Evaluation:
    """As many held-out users as there are interests; the model is a table and fixed interests."""

    max_history = 20

    def __init__(self, interests: Tensor, table: ItemTable) -> None:
        self.items, offsets = sequences(len(interests), table.num_items, 20)
        ends = offsets[1:]
        spans = np.stack([offsets[:-1], ends - 3, ends], axis=1)
        self._users = EvalSplit(np.arange(len(spans), dtype=np.int32), spans)
        self._interests = interests
        self.num_items, self.rows, self.read = table.num_items, table.rows, table.read
        self._next = 0

    def eval_split(self, split: str) -> EvalSplit:
        return self._users

    def interests(self, history: Tensor, length: Tensor) -> Tensor:
        self._next += len(history)
        return self._interests[self._next - len(history) : self._next]

    def run(self) -> None:
        self._next = 0
        evaluate(self, self, "test")  # type: ignore[arg-type]


def main() -> None:
    """Check, compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, help="a run folder; generated vectors without it")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=368_000)
    parser.add_argument("--engines", nargs="*", default=["IVF2048,Flat", "HNSW32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    options = parser.parse_args()
    set_threads(0)
    if options.run:
        interests, table = of_a_run(options.run, options.users)
    else:
        interests, table = generated(options.users, options.items)
    evaluation = Evaluation(interests, table)
    makers = contestants(interests, table, K, "all")
    del makers["torch matmul and topk"]  # takes minutes
    made, cannot = make_all(makers)
    runs = {name: each.run for name, each in made.items()}
    runs["evaluate, metrics and all"] = evaluation.run
    found: dict[str, Any] = {"items": table.num_items, "interests": list(interests.shape)}
    found |= {"check": {name: each.notes for name, each in made.items()}, "cannot": cannot}
    print(found)
    exact = search(interests, table, K).ids
    found["engines"] = {}
    for factory in options.engines:
        engine = FaissSearch(table, factory)
        ids = engine.search(interests, K).ids
        found["engines"][factory] = {"recall": recall_of(ids, exact), "effort": engine.effort}
        print(factory, found["engines"][factory])
        runs[f"faiss {factory}, rescored"] = lambda engine=engine: engine.search(interests, K)
    found["turns"] = compared(take_turns(runs, options.rounds, 0), EXACT)
    results.show(found["turns"])
    if options.save:
        print(results.save(options.save, found))


if __name__ == "__main__":
    main()
