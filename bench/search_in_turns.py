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
from remi_fast.benchmark.turns import compared, take_turns
from remi_fast.data.dataset import EvalSplit
from remi_fast.models.item_table import ItemTable
from remi_fast.retrieval.evaluate import evaluate
from remi_fast.retrieval.faiss_index import FaissSearch, build, load_faiss, recall_of
from remi_fast.retrieval.histories import last_items
from remi_fast.retrieval.search import search
from remi_fast.training.run_folder import RunFolder
from remi_fast.training.trainer import set_threads

K = 50
OURS = "remi-fast, exact"
TIE = 1e-5  # relative; what float32 cannot tell apart


def generated(users: int, num_items: int, dim: int = 64) -> tuple[Tensor, ItemTable]:
    """Items around 2,000 centres, and interests near them: (users, 4, d), table."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(2000, dim, generator=generator) * 0.3
    table = ItemTable(num_items, dim, generator=generator)
    table.weight[1:] = centres[torch.randint(0, 2000, (num_items - 1,), generator=generator)]
    table.weight[1:] += 0.15 * torch.randn(num_items - 1, dim, generator=generator)
    picked = torch.randint(0, 2000, (users, 4), generator=generator)
    return centres[picked] + 0.15 * torch.randn(users, 4, dim, generator=generator), table


def of_a_run(run: Path, users: int) -> tuple[Tensor, ItemTable]:
    """The same from a trained model."""
    model, dataset = load(run).model, RunFolder.open(run).dataset()
    start, cut, _ = dataset.eval_split("test").spans.T
    history, length = last_items(dataset.items, start, cut, model.max_history)
    interests = model.interests(torch.from_numpy(history), torch.from_numpy(length))
    return interests[torch.arange(users) % len(interests)], model.table


def by_faiss(index: Any, interests: Tensor) -> Tensor:
    """The published merge over faiss: each interest's top k; union, sorted, duplicates dropped."""
    users = len(interests)
    scores, ids = index.search(interests.reshape(-1, interests.shape[2]).numpy(), K)
    scores, ids = (torch.from_numpy(x).view(users, -1) for x in (scores, ids))
    scores, order = scores.sort(dim=1, descending=True)
    ids, order = ids.gather(1, order).sort(dim=1, stable=True)  # of equal ones the best first
    scores = scores.gather(1, order)
    scores[:, 1:][ids[:, 1:] == ids[:, :-1]] = -torch.inf
    return ids.gather(1, scores.topk(K, dim=1).indices)


def products(interests: Tensor, table: ItemTable, chunk: int = 1024) -> None:
    """The scores alone: what torch's matrix product takes, a block in the cache at a time."""
    flat = interests.reshape(-1, interests.shape[2])
    vectors = table.weight.detach()
    for block in flat.split(4096):
        out = torch.empty(len(block), chunk)
        for start in range(0, len(vectors) - chunk, chunk):
            torch.mm(block, vectors[start : start + chunk].T, out=out)


def check(ours: Tensor, theirs: Tensor, interests: Tensor, table: ItemTable) -> dict[str, float]:
    """How many ids differ, and that float64 sees no difference in what they score."""
    missing = (ours[:, :, None] != theirs[:, None, :]).all(2)
    users = missing.any(1).nonzero().flatten()
    worst = 0.0
    for user in users.tolist():
        queries = interests[user].double()
        lists = [table.read(ids[user]).double() @ queries.T for ids in (ours, theirs)]
        mine, other = (scores.amax(1).sort(descending=True).values for scores in lists)
        worst = max(worst, float(((other - mine) / other.abs()).max()))
    if worst > TIE:
        raise SystemExit(f"another item than the peer finds, {worst:.1e} below it")
    return {"ids that differ": float(missing.double().mean()), "worst of them": worst}


class Evaluation:
    """As many held-out users as there are interests; the model is a table and fixed interests."""

    max_history = 20

    def __init__(self, interests: Tensor, table: ItemTable) -> None:
        self.items, offsets = sequences(len(interests), table.num_items, 20)
        ends = offsets[1:]
        spans = np.stack([offsets[:-1], ends - 3, ends], axis=1)
        self._users = EvalSplit(np.arange(len(spans), dtype=np.int32), spans)
        self._interests, self._table = interests, table
        self._next = 0

    def eval_split(self, split: str) -> EvalSplit:
        return self._users

    def interests(self, history: Tensor, length: Tensor) -> Tensor:
        self._next += len(history)
        return self._interests[self._next - len(history) : self._next]

    def run(self) -> None:
        self._next = 0
        evaluate(self, self._table, self, "test")  # type: ignore[arg-type]


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
    load_faiss().omp_set_num_threads(torch.get_num_threads())
    if options.run:
        interests, table = of_a_run(options.run, options.users)
    else:
        interests, table = generated(options.users, options.items)
    flat = build(table, "Flat")
    exact = search(interests, table, K).ids
    found: dict[str, Any] = {"items": table.num_items, "interests": list(interests.shape)}
    found["check"] = check(exact, by_faiss(flat, interests), interests, table)
    print(found)
    evaluation = Evaluation(interests, table)
    runs: dict[str, Any] = {
        OURS: lambda: search(interests, table, K),
        "faiss IndexFlatIP, merged": lambda: by_faiss(flat, interests),
        "torch.mm of the scores alone": lambda: products(interests, table),
        "evaluate, metrics and all": evaluation.run,
    }
    found["engines"] = {}
    for factory in options.engines:
        engine = FaissSearch(table, factory)
        ids = engine.search(interests, K).ids
        found["engines"][factory] = {"recall": recall_of(ids, exact), "effort": engine.effort}
        print(factory, found["engines"][factory])
        runs[f"faiss {factory}, rescored"] = lambda engine=engine: engine.search(interests, K)
    found["turns"] = compared(take_turns(runs, options.rounds, 0), OURS)
    results.show(found["turns"], OURS)
    if options.save:
        print(results.save(options.save, found))


if __name__ == "__main__":
    main()
