"""What the best models of runs do with users and items: what no log holds."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from remi_fast import files
from remi_fast.data.dataset import Dataset
from remi_fast.errors import DataError
from remi_fast.kernels.reference import select_interest
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.report.runs import Run, printable
from remi_fast.retrieval.histories import even_sample, last_items
from remi_fast.retrieval.search import search
from remi_fast.training import diagnostics
from remi_fast.training.trainer import load_model, set_threads

SAMPLE_USERS = 6  # whose routing is shown
RETRIEVED = 50  # items a user, of whom the map shows which interest retrieves them
MAP_ITEMS, MAP_OTHERS = 1500, 500  # of the retrieved items, and of the others
NOTHING = "no use of interests, no routing, no item map"
COLLAPSED = 0.5  # an interest with more than this on one item is called collapsed

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ItemMap:
    """Item vectors on their two first principal components."""

    points: Floats  # (n, 2)
    interest: Ints  # (n,): which retrieves the item most often; -1 where none does
    explained: Floats  # (2,): share of the variance


@dataclass(frozen=True)
class Probe:
    """Of the best weights; None where it makes no sense, or they cannot be had."""

    usage: Floats | None = None  # (K,): share of targets that each interest serves
    largest: Floats | None = None  # (users K,): largest routing weight of every interest
    routing: dict[str, Floats] | None = None  # user -> (K, l): weights of the history's l items
    item_map: ItemMap | None = None
    note: str = ""  # what is missing, and why

    @property
    def collapsed(self) -> float | None:
        """Share of the interests that have collapsed onto one item."""
        return None if self.largest is None else float((self.largest > COLLAPSED).mean())

    @property
    def interests_used(self) -> float | None:
        """exp(entropy of the usage): 1 to K, as at each validation."""
        if self.usage is None:
            return None
        return float(diagnostics.interests_used(torch.from_numpy(self.usage)))


@torch.no_grad()
def probe(run: Run, max_history: int) -> Probe:
    """Look into the best model of a run.

    max_history: the largest of the runs compared, so that their sample users are the same.
    Raises CorruptFileError for a damaged file.
    """
    config = run.config
    if config.model.name == "pop":
        return Probe(note=f"pop has one ranking for all: {NOTHING}.")
    if config.train.checkpoints == "none" or not files.standing(run.folder.best).exists():
        return Probe(note=f"there is no best checkpoint: {NOTHING}.")
    try:
        dataset = run.folder.dataset()
    except DataError as error:
        return Probe(note=f"{NOTHING}: {printable(str(error))}")
    set_threads(config.train.threads)
    model = load_model(run.folder, config, dataset.num_items)
    spans = dataset.eval_split("valid").spans
    chosen = even_sample(len(spans), diagnostics.USERS)
    interests, routing, length = _extract(model, dataset, chosen)
    if routing is None:
        return Probe(note=f"{config.model.name} has one vector a user: {NOTHING}.")
    found = Probe(
        largest=diagnostics.routing_shares(routing)[length > 1].amax(2).flatten().double().numpy(),
        routing=_sample_routing(model, dataset, sample_users(dataset, max_history)),
    )
    if interests.shape[1] == 1:
        return replace(found, note="model.num_interests is 1: no use of interests, no item map.")
    usage = _usage(model, dataset, chosen, interests)
    return replace(found, usage=usage, item_map=_item_map(model, interests))


def sample_users(dataset: Dataset, max_history: int) -> Ints:
    """Rows of the validation split: an even sample of the users with the longest histories."""
    start, cut, _ = dataset.eval_split("valid").spans.T
    length = np.minimum(cut - start, max_history)
    order = np.argsort(-length, kind="stable")
    longest = np.sort(order[: max(SAMPLE_USERS, int((length == length.max()).sum()))])
    return longest[even_sample(len(longest), SAMPLE_USERS)]


def _extract(
    model: MultiInterestModel, dataset: Dataset, chosen: Ints
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Interests (n, K, d), routing (n, K, L) and length (n,) of rows of the validation split."""
    start, cut, _ = dataset.eval_split("valid").spans[chosen].T
    history, lengths = last_items(dataset.items, start, cut, model.max_history)
    length = torch.from_numpy(lengths)
    interests, routing = model.extractor(model.table(torch.from_numpy(history)), length)
    return interests, routing, length


def _usage(model: MultiInterestModel, dataset: Dataset, chosen: Ints, interests: Tensor) -> Floats:
    cut = dataset.eval_split("valid").spans[chosen, 1]
    target = model.table(torch.from_numpy(dataset.items[cut].astype(np.int64)))
    _, won = select_interest(interests, target)
    return diagnostics.interest_shares(won, interests.shape[1]).double().numpy()


def _sample_routing(model: MultiInterestModel, dataset: Dataset, sample: Ints) -> dict[str, Floats]:
    _, routing, length = _extract(model, dataset, sample)
    assert routing is not None
    users = dataset.eval_split("valid").users[sample]
    ids, shares = dataset.user_table["user_id"], diagnostics.routing_shares(routing)
    return {
        printable(str(ids[int(user)])): weights[:, :most].double().numpy()
        for user, weights, most in zip(users, shares, length.tolist(), strict=True)
    }


def _item_map(model: MultiInterestModel, interests: Tensor) -> ItemMap:
    """Retrieved items, coloured by the interest that retrieves them most often, and others."""
    found = search(interests, model, min(RETRIEVED, model.num_items - 1))
    num_interests = interests.shape[1]
    pairs = (found.ids * num_interests + found.interest)[found.ids > 0]
    counts = torch.bincount(pairs, minlength=model.num_items * num_interests)
    counts = counts.view(model.num_items, num_interests)
    interest = torch.where(counts.sum(1) > 0, counts.argmax(1), -1).numpy()
    retrieved = np.flatnonzero(interest >= 0)
    others = np.flatnonzero(interest < 0)[1:]  # without the padding row
    sizes = (retrieved, MAP_ITEMS), (others, MAP_OTHERS)
    items = np.concatenate([ids[even_sample(len(ids), most)] for ids, most in sizes])
    vectors = model.read(torch.from_numpy(items)).double().numpy()
    points, explained = principal_components(vectors)
    return ItemMap(points, interest[items], explained)


def principal_components(vectors: Floats) -> tuple[Floats, Floats]:
    """vectors (n, d) -> their places on the two first components (n, 2), and shares of the
    variance (2,). Every component points where its largest coordinate is positive."""
    centred = vectors - vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-300)
    axes = axes[:2]  # one, of a model.dim of 1
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    points, explained = np.zeros((len(vectors), 2)), np.zeros(2)
    points[:, : len(axes)] = centred @ axes.T
    explained[: len(axes)] = shares[: len(axes)]
    return points, explained
