"""The `demo` dataset: synthetic interactions with planted interests, the same on every machine.

Items belong to topics. A user has a few topics of interest and, event by event, picks one of them
and an item of it; now and then an item of any topic, as noise. Topics, and items within a topic,
have long-tailed popularity (log-uniform: probability of rank r about 1 / r). Times ascend.
A good model finds a user's several topics in the history; one vector per user blurs them.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from remi_fast.data.dataset import Dataset
from remi_fast.data.prepare import PrepareSettings, prepare_interactions
from remi_fast.data.readers import ColumnNames, Interactions
from remi_fast.kernels.philox import DEMO, bounded, random_words

SEED = 2023
USERS, TOPICS, ITEMS_PER_TOPIC = 8_000, 400, 25
INTERESTS = (2, 5)  # fewest and most topics of a user
EVENTS = (12, 40)  # fewest and most events of a user
NOISE = 0.1  # share of events with an item of any topic
START, LARGEST_GAP = 1_735_689_600, 86_400  # 2025-01-01 UTC; seconds between events of a user

Ints = npt.NDArray[np.int64]


def prepare_demo(out: str | Path) -> Dataset:
    """Generate the demo data and prepare it, in the published way, into the folder `out`."""
    columns = ColumnNames("user_id", "item_id", "timestamp")
    interactions = Interactions(demo_interactions(), columns)
    return prepare_interactions(interactions, "demo (generated)", out, PrepareSettings())


def demo_interactions() -> pl.DataFrame:
    """user_id (Int64), item_id (String, "topic-t-item-i"), timestamp (Int64, Unix seconds)."""
    user = np.arange(USERS)
    length = _between(0, user, *EVENTS)
    interests = _between(1, user, *INTERESTS)
    owner = np.repeat(user, length)
    event = np.arange(len(owner))
    slot = bounded(_words(2, event), interests[owner])  # which of the user's topics
    noise = _unit(3, event) < NOISE
    topic_of_slot = _long_tailed(_unit(4, np.arange(USERS * INTERESTS[1])), TOPICS)
    topic = np.where(
        noise, _long_tailed(_unit(5, event), TOPICS), topic_of_slot[owner * INTERESTS[1] + slot]
    )
    item = _long_tailed(_unit(6, event), ITEMS_PER_TOPIC)
    gap = 1 + bounded(_words(7, event), LARGEST_GAP)
    names = np.array(
        [f"topic-{t:03d}-item-{i:02d}" for t in range(TOPICS) for i in range(ITEMS_PER_TOPIC)]
    )
    return pl.DataFrame(
        {
            "user_id": owner,
            "item_id": names[topic * ITEMS_PER_TOPIC + item],
            "timestamp": START + _running_sum(gap, length),
        }
    )


def _words(draw: int, index: Ints) -> npt.NDArray[np.uint32]:
    return random_words(index, draw, DEMO, SEED)


def _unit(draw: int, index: Ints) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1)."""
    return bounded(_words(draw, index), 2**31) / 2**31


def _between(draw: int, index: Ints, low: int, high: int) -> Ints:
    return low + bounded(_words(draw, index), high - low + 1)


def _long_tailed(unit: npt.NDArray[np.float64], n: int) -> Ints:
    """Log-uniform ranks in [0, n)."""
    ranks: Ints = np.floor(np.exp(unit * np.log(n + 1.0))).astype(np.int64) - 1
    return np.minimum(ranks, n - 1)


def _running_sum(values: Ints, length: Ints) -> Ints:
    """Cumulative sums that start again at every user."""
    total = np.cumsum(values)
    before = np.concatenate(([0], total))[np.cumsum(length) - length]
    sums: Ints = total - np.repeat(before, length)
    return sums
