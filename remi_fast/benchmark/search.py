"""Exact search, users x K interests x the whole catalogue: beside torch's matmul and topk, faiss,
and the matrix product alone.

Checked first: the ids of ours have to be those of float64, those of the peers ours, but for
near-ties.
Products are float32 (and tf32 on a GPU, where that peer alone takes its turn).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from remi_fast.benchmark import resources
from remi_fast.benchmark.turns import OURS, Contestant, check_error, compared, make_all, take_turns
from remi_fast.errors import BenchmarkError
from remi_fast.models.item_table import ItemTable
from remi_fast.retrieval.faiss_index import build, load_faiss
from remi_fast.retrieval.search import search
from remi_fast.training.precision import arithmetic

Find = Callable[[Tensor], Tensor]  # interests (n, K, d) -> ids (n, k)
EXACT = f"{OURS}, exact"
CENTRES = 2000  # that the vectors lie around
TIE = 1e-5  # relative; what float32 cannot tell apart
CHECKED_USERS, EXACTLY = 1000, 16  # at most: of a peer, and of ours in float64
SCORES_AT_ONCE = {"cpu": 1 << 26, "cuda": 1 << 30}  # of matmul and topk: 256 MiB, 4 GiB
ITEMS_AT_ONCE = {"cpu": 1 << 10, "cuda": 1 << 16}  # of that product; a CPU's block in its cache
QUERIES_AT_ONCE = 4096


def compare(
    interests: Tensor, table: ItemTable, k: int, *, peers: str, rounds: int, seconds: float
) -> dict[str, Any]:
    """One case: each peer checked, then all in turns, `seconds` each in each round.

    interests: (U, K, d), on the device of the table; peers: "none" or "all".
    """
    made, cannot = make_all(contestants(interests, table, k, peers))
    times = take_turns({name: each.run for name, each in made.items()}, rounds, seconds)
    found = compared(times, EXACT)
    for name, row in found.items():
        row |= {"users_per_s": round(1e3 * len(interests) / row["ms"])} | made[name].notes
    head = {"part": "eval", "users": len(interests), "items": table.num_items, "k": k}
    head |= {"interests": interests.shape[1], "dim": interests.shape[2]}
    return head | {"device": interests.device.type, "cannot": cannot, "contestants": found}


def check_memory(users: int, items: int, interests: int, dim: int, device: torch.device) -> None:
    """Raise ConfigError where the vectors, as often as they are there at once, do not fit."""
    need = 4 * (dim * (5 * items + 2 * users * interests) + 2 * SCORES_AT_ONCE[device.type])
    what = f"--num-items {items:,} and --users {users:,}: vectors and scores"
    resources.check_memory(need, device, what)


def contestants(
    interests: Tensor, table: ItemTable, k: int, peers: str
) -> dict[str, Callable[[], Contestant]]:
    """By name, what checks and makes it; the first is what the others are compared with."""
    weight = table.weight.detach()

    def exact() -> Contestant:
        few = interests[:EXACTLY]
        theirs = matmul_and_topk(few.double(), weight.double(), k)
        notes = check(theirs, few, table, TIE)
        return Contestant(lambda: search(interests, table, k), notes=notes)

    def checked(make: Callable[[], Find], most: float = TIE) -> Contestant:
        find, few = make(), interests[:CHECKED_USERS]
        return Contestant(lambda: find(interests), notes=check(find(few), few, table, most))

    found = {EXACT: exact}
    if peers == "none":
        return found
    matmul = partial(matmul_and_topk, weight=weight, k=k)
    found["torch matmul and topk"] = lambda: checked(lambda: matmul)
    if interests.is_cuda:
        tf32 = partial(_by_tf32, matmul)
        found["torch matmul (tf32) and topk"] = lambda: checked(lambda: tf32, torch.inf)
    found["faiss IndexFlatIP, merged"] = lambda: checked(lambda: _faiss(table, k))
    product = partial(products, interests, weight)
    found["torch.mm of the scores alone"] = lambda: Contestant(product)
    return found


def generated(
    users: int, num_items: int, interests: int = 4, dim: int = 64
) -> tuple[Tensor, ItemTable]:
    """Items around some centres, and interests near them: (users, K, d), table."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(CENTRES, dim, generator=generator) * 0.3
    table = ItemTable(num_items, dim, generator=generator)
    table.weight[1:] = centres[torch.randint(0, CENTRES, (num_items - 1,), generator=generator)]
    table.weight[1:] += 0.15 * torch.randn(num_items - 1, dim, generator=generator)
    picked = torch.randint(0, CENTRES, (users, interests), generator=generator)
    near = 0.15 * torch.randn(users, interests, dim, generator=generator)
    return centres[picked] + near, table


def matmul_and_topk(interests: Tensor, weight: Tensor, k: int) -> Tensor:
    """ids (n, k) of all users, as many at a time as SCORES_AT_ONCE allows."""
    scores_of_a_user = interests.shape[1] * len(weight)
    users = max(1, SCORES_AT_ONCE[interests.device.type] // scores_of_a_user)
    found = []
    for block in interests.split(users):
        scores = (block.flatten(0, 1) @ weight.T).view(*block.shape[:2], -1).amax(1)
        scores[:, 0] = -torch.inf  # padding
        found.append(scores.topk(k, dim=1).indices)
    return torch.cat(found)


def _by_tf32(find: Find, interests: Tensor) -> Tensor:
    with arithmetic("tf32", interests.device):
        return find(interests)


def _faiss(table: ItemTable, k: int) -> Find:
    if table.weight.is_cuda:
        raise BenchmarkError("it takes part on a CPU only")
    load_faiss().omp_set_num_threads(torch.get_num_threads())
    return partial(by_faiss, build(table, "Flat"), k=k)


def by_faiss(index: Any, interests: Tensor, k: int) -> Tensor:
    """The published merge over faiss: each interest's top k; union, sorted, duplicates dropped."""
    users = len(interests)
    scores, ids = index.search(interests.reshape(-1, interests.shape[2]).numpy(), k)
    scores, ids = (torch.from_numpy(x).view(users, -1) for x in (scores, ids))
    scores, order = scores.sort(dim=1, descending=True)
    ids, order = ids.gather(1, order).sort(dim=1, stable=True)  # of equal ones the best first
    scores = scores.gather(1, order)
    scores[:, 1:][ids[:, 1:] == ids[:, :-1]] = -torch.inf
    return ids.gather(1, scores.topk(k, dim=1).indices)


def products(interests: Tensor, weight: Tensor) -> None:
    """The scores alone: what torch's matrix product takes, block by block."""
    size = ITEMS_AT_ONCE[weight.device.type]
    for block in interests.flatten(0, 1).split(QUERIES_AT_ONCE):
        out = torch.empty(len(block), size, device=weight.device)
        for vectors in weight.split(size):
            torch.mm(block, vectors.T, out=out[:, : len(vectors)])


def check(theirs: Tensor, interests: Tensor, table: ItemTable, most: float) -> dict[str, float]:
    """How many of the ids (n, k) are not ours, and how far apart, relatively, float64 scores the
    two lists at worst: at most `most`, else BenchmarkError."""
    ours = search(interests, table, theirs.shape[1]).ids.to(theirs.device)
    missing = (ours[:, :, None] != theirs[:, None, :]).all(2)
    worst = 0.0
    for user in missing.any(1).nonzero().flatten().tolist():
        queries = interests[user].double()
        lists = [table.read(ids[user]).double() @ queries.T for ids in (ours, theirs)]
        mine, other = (scores.amax(1).sort(descending=True).values for scores in lists)
        worst = max(worst, float(((other - mine) / other.abs()).abs().max()))
    worst = check_error(worst, most, "scores of the items found, and of ours")
    return {"ids_that_differ": missing.double().mean().item(), "worst_of_them": worst}
