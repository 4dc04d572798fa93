"""Arguments of remi_fast.functional and REMILoss."""

import math

import torch

import remi_fast.functional as F
from remi_fast import REMILoss

from .case import FINITE, accepted, invalid, outside, wrong_type

B, K, D, ITEMS, N, L = 6, 3, 5, 40, 17, 8
RANDOM = torch.Generator().manual_seed(0)
INTERESTS = torch.randn(B, K, D, generator=RANDOM)
TABLE = torch.randn(ITEMS, D, generator=RANDOM)
TARGETS = torch.randint(1, ITEMS, (B,), generator=RANDOM)
NEGATIVES = torch.randint(1, ITEMS, (N,), generator=RANDOM)
ROUTING = torch.randn(B, K, L, generator=RANDOM).softmax(2)


def ihn(**changes):
    vectors = {"query": INTERESTS[:, 0], "target": TABLE[TARGETS], "negatives": TABLE[NEGATIVES]}
    return F.ihn_loss(**vectors | {"beta": 1.0} | changes)


def multi(**changes):
    inputs = {"interests": INTERESTS, "target_ids": TARGETS, "item_table": TABLE}
    return F.multi_interest_ihn_loss(
        **inputs | {"negative_ids": NEGATIVES, "beta": 1.0, "routing": ROUTING} | changes
    )


def full(**changes):
    inputs = {"interests": INTERESTS, "target_ids": TARGETS, "item_table": TABLE}
    return F.full_catalogue_ihn_loss(**inputs | {"beta": 1.0} | changes)


def draw(num=3, num_items=ITEMS, **changes):
    return F.sample_negatives(num, num_items, **{"seed": 0, "step": 0} | changes)


def meta(tensor):
    return tensor.to("meta")


CASES = [
    invalid("F: beta below 0", lambda: ihn(beta=-1), "beta: ", "got -1", FINITE),
    invalid("F: beta NaN", lambda: ihn(beta=math.nan), "beta: ", "got nan", FINITE),
    invalid("F: beta infinite", lambda: ihn(beta=math.inf), "beta: ", "got inf", FINITE),
    wrong_type("F: beta a word", lambda: ihn(beta="1"), "beta: ", "got '1'", FINITE),
    wrong_type("F: a list", lambda: ihn(query=[[1.0]]), "query: ", "got list", "a tensor"),
    invalid("F: a vector", lambda: ihn(query=TABLE[0]), "query: ", r"got \(5,\)", r"\(n, d\)"),
    invalid("F: integers", lambda: ihn(query=TARGETS[:, None]), "query: ", "int64", "a floating"),
    invalid(
        "F: rows", lambda: ihn(target=TABLE[:3]), "target: ", r"got shape \(3, 5\)", r"\(6, 5\)"
    ),
    invalid(
        "F: a number", lambda: ihn(negatives=TABLE[0, 0]), "negatives: ", r"got \(\)", r"\(n, d"
    ),
    invalid("F: dtype", lambda: ihn(target=TABLE[:B].double()), "target: ", "float64", "float32"),
    invalid("F: device", lambda: ihn(target=meta(TABLE[:B])), "target: ", "on meta", "with data"),
    invalid("F: all on meta", lambda: ihn(query=meta(TABLE)), "query: ", "on meta", "with data"),
    invalid(
        "F: sparse", lambda: ihn(query=TABLE.to_sparse()), "query: ", "sparse_coo", "a dense one"
    ),
    invalid(
        "F: log q", lambda: ihn(log_q=torch.ones(3)), "log_q: ", r"got shape \(3,\)", r"\(17,\)"
    ),
    invalid(
        "F: ids that are floats",
        lambda: ihn(target_ids=TARGETS.float(), negative_ids=NEGATIVES),
        "target_ids: ",
        "got torch.float32",
        "expected integers",
    ),
    invalid(
        "F: backend", lambda: ihn(backend="cuda"), "ihn_loss: ", "got backend 'cuda'", "native"
    ),
    invalid("F: no K", lambda: multi(interests=INTERESTS[:, :0]), "interests: ", "0, 5", "K >= 1"),
    invalid(
        "F: routing of integers",
        lambda: multi(routing=ROUTING.int()),
        "routing: ",
        "int32",
        "floating",
    ),
    invalid(
        "F: routing",
        lambda: multi(routing=ROUTING[0]),
        "routing: ",
        r"got shape \(3, 8\)",
        "B, K, L",
    ),
    invalid(
        "F: int16", lambda: multi(target_ids=TARGETS.short()), "target_ids: ", "int16", "int64"
    ),
    outside(
        "F: a target of I",
        lambda: multi(target_ids=TARGETS * 0 + ITEMS),
        r"target_ids\[0\]",
        "= 40",
        "< 40",
    ),
    outside(
        "F: a target below 0",
        lambda: multi(target_ids=-TARGETS),
        r"target_ids\[0\]",
        "= -",
        "0 <= id",
    ),
    outside(
        "F: a negative of I",
        lambda: multi(negative_ids=NEGATIVES + ITEMS),
        r"negative_ids\[0\]",
        "= ",
        "< 40",
    ),
    outside(
        "F: a full target",
        lambda: full(target_ids=TARGETS + ITEMS),
        r"target_ids\[0\]",
        "= ",
        "< 40",
    ),
    invalid(
        "F: no item", lambda: full(item_table=TABLE[:1]), "item_table: ", "got 1 rows", "2 or more"
    ),
    invalid(
        "F: both negatives",
        lambda: multi(num_negatives=3),
        "negative_ids, num_neg",
        "give",
        "one of",
    ),
    wrong_type("F: half a negative", lambda: draw(1.5), "num: ", "got 1.5", "a whole number"),
    invalid("F: negatives below 0", lambda: draw(-1), "num: got", "got -1", r"in \[0, 2\^32\)"),
    invalid(
        "F: distinct negatives",
        lambda: draw(ITEMS, replacement=False),
        "num: ",
        "got 40 without replacement",
        "at most 39",
    ),
    invalid("F: no items", lambda: draw(3, 1), "num_items: got", "got 1", r"in \[2, 2\^32\)"),
    invalid("F: a seed of 2^64", lambda: draw(seed=2**64), "seed: got", "got 1844", r"2\^64"),
    wrong_type("F: half a seed", lambda: draw(seed=1.5), "seed: ", "got 1.5", "a whole number"),
    invalid("F: a step below 0", lambda: draw(step=-1), "step: got", "got -1", r"in \[0, 2\^32"),
    wrong_type("F: a truth for a seed", lambda: draw(seed=True), "seed: ", "got True", "a whole"),
    wrong_type("F: half a step", lambda: draw(step=0.5), "step: ", "got 0.5", "a whole number"),
    invalid("F: sampler", lambda: draw(sampler="zipf"), "sampler: got", "got 'zipf'", "uniform"),
    invalid(
        "F: weights of items",
        lambda: F.Proposal.of_weights(torch.full((5,), math.nan)),
        "weights: ",
        "sum nan",
        "expected finite numbers",
    ),
    invalid(
        "F: dim of 0", lambda: F.routing_regularizer(ROUTING, 0), "routing of", "dim 0", "dim >= 1"
    ),
    accepted(
        "F: no user",
        lambda: multi(interests=INTERESTS[:0], target_ids=TARGETS[:0], routing=ROUTING[:0]),
        lambda out: all(len(x) == 0 for x in out),
    ),
    accepted(
        "F: one user",
        lambda: multi(interests=INTERESTS[:1], target_ids=TARGETS[:1], routing=ROUTING[:1])[0],
        lambda loss: torch.allclose(loss, multi()[0][:1]),
    ),
    accepted("F: no negative", lambda: ihn(negatives=TABLE[:0]), lambda loss: not loss.any()),
    accepted(
        "F: any stride",
        lambda: ihn(query=INTERESTS[:, 0].T.contiguous().T),
        lambda loss: torch.equal(loss, ihn()),
    ),
    accepted(
        "F: weights of NaN",
        lambda: ihn(query=INTERESTS[:, 0] * math.nan),
        lambda loss: loss.isnan().all(),
    ),
    accepted(
        "F: a large beta",
        lambda: [ihn(beta=1e30, backend=name) for name in ("native", "triton")],
        lambda out: torch.allclose(*out, rtol=1e-5),
    ),
    invalid(
        "REMILoss: lambda", lambda: REMILoss(rr_lambda=math.nan), "rr_lambda: ", "got nan", FINITE
    ),
    wrong_type(
        "REMILoss: N", lambda: REMILoss(num_negatives=1.5), "num_negatives: ", "got 1.5", "whole"
    ),
    wrong_type("REMILoss: seed", lambda: REMILoss(seed=1.5), "seed: ", "got 1.5", "a whole number"),
    invalid(
        "REMILoss: no routing",
        lambda: REMILoss()(INTERESTS, TARGETS, TABLE, NEGATIVES),
        "routing: ",
        "got None",
        r"expected \(B, K, L\)",
    ),
    accepted(
        "REMILoss: no user",
        lambda: REMILoss()(INTERESTS[:0], TARGETS[:0], TABLE, NEGATIVES, ROUTING[:0]),
        torch.isnan,
    ),
]
