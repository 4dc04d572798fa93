"""Arguments of tables and optimizers, of data, and of runs in the library."""

import math

import numpy as np
import polars as pl
import torch

import remi_fast
from remi_fast import Config, DeferredAdam, ItemTable
from remi_fast.config import LossConfig, ModelConfig, TrainConfig
from remi_fast.data.dataset import Dataset
from remi_fast.data.loader import BatchLoader
from remi_fast.data.prepare import PrepareSettings, prepare
from remi_fast.errors import ConfigError, DataError, NonFiniteError, RunFolderError

from .case import FINITE, accepted, invalid, outside, refused, wrong_type

ITEMS = 40
IDS = torch.tensor([1, 2])
SEQUENCES = {
    "items": np.arange(1, ITEMS + 1, dtype=np.int32),
    "users": np.arange(4, dtype=np.int32),
    "spans": np.array([[10 * user, 10 * user + 10] for user in range(4)], np.int64),
}
HISTORY = {"user_id": ["new"], "item_id": ["t0-1"]}


def no_data(name, do, where, got, expected):
    return refused(name, do, where, got, expected, kind=DataError)


def table():
    return ItemTable(5, 4, generator=torch.Generator().manual_seed(0))


def adam(**options):
    return DeferredAdam(table(), **options)


def step_at(rate):
    optimizer = adam()
    optimizer.param_groups[0]["lr"] = rate
    optimizer.gather(torch.tensor([1])).sum().backward()
    optimizer.step()


def step_from(**state):
    """A step of an optimizer that was given a changed state."""
    optimizer = adam()
    optimizer.load_state_dict(optimizer.state_dict() | state)
    optimizer.gather(torch.tensor([1]))


def batch(**changes):
    settings = {"batch_size": 4, "max_history": 5, "seed": 1}
    with BatchLoader(**SEQUENCES | settings | changes) as loader:
        return next(loader)


def recommend(changes=None, **options):
    frame = pl.DataFrame(HISTORY | (changes or {}), strict=False)
    return remi_fast.load("run").recommend(frame, **options)


TABLES = [
    invalid(
        "ItemTable: one row", lambda: ItemTable(1, 4), "num_items", "got num_items 1", "least 2"
    ),
    invalid(
        "ItemTable: 2^31 rows", lambda: ItemTable(2**31, 4), "num_items", "2147483648", r"2\^31"
    ),
    wrong_type(
        "ItemTable: half a row", lambda: ItemTable(2.5, 4), "num_items: ", "got 2.5", "whole"
    ),
    invalid("ItemTable: deviation", lambda: ItemTable(5, 4, std=-1), "std: ", "got -1", FINITE),
    outside("ItemTable: id of I", lambda: table()(torch.tensor([1, 5])), r"ids\[1\]", "= 5", "< 5"),
    outside(
        "ItemTable: id below 0", lambda: table()(torch.tensor([-1])), r"ids\[0\]", "= -1", "0 <= id"
    ),
    wrong_type(
        "ItemTable: id of 1.5", lambda: table()(torch.tensor([1.5])), "ids: ", "float32", "int32"
    ),
    wrong_type(
        "ItemTable: truth", lambda: table()(torch.tensor([True])), "ids: ", "torch.bool", "int64"
    ),
    invalid(
        "ItemTable: ids on meta", lambda: table()(IDS.to("meta")), "ids: ", "on meta", "with data"
    ),
    outside("ItemTable: rows", lambda: table().rows(-1, 3), "rows: ", "got -1 to 3", "0 <= start"),
    wrong_type(
        "Adam: no table",
        lambda: DeferredAdam(torch.nn.Embedding(5, 4)),
        "table: ",
        "got Embedding",
        "an ItemTable",
    ),
    invalid("Adam: lr below 0", lambda: adam(lr=-1), "lr", "got lr -1", "expected lr >= 0"),
    invalid("Adam: lr NaN", lambda: adam(lr=math.nan), "lr", "got lr nan", "all finite"),
    invalid("Adam: lr infinite", lambda: adam(lr=math.inf), "lr", "got lr inf", "all finite"),
    invalid("Adam: betas", lambda: adam(betas=(1.0, 0.9)), "betas", r"betas \(1.0", "beta1 < 1"),
    invalid(
        "Adam: lr that turns NaN",
        lambda: step_at(math.nan),
        "'lr'",
        "got nan",
        "nothing was updated",
    ),
    invalid(
        "Adam: lr that turns below 0", lambda: step_at(-1), "'lr'", "got -1", "nothing was updated"
    ),
    outside(
        "Adam: gather of I", lambda: adam().gather(torch.tensor([1, 5])), r"ids\[1\]", "= 5", "< 5"
    ),
    wrong_type(
        "Adam: gather of a list", lambda: adam().gather([1]), "ids: ", "got list", "a tensor"
    ),
    invalid(
        "Adam: gather on meta",
        lambda: adam().gather(IDS.to("meta")),
        "ids: ",
        "on meta",
        "with data",
    ),
    wrong_type(
        "Adam: read of 1.5", lambda: adam().read(torch.tensor([1.5])), "ids: ", "float32", "int64"
    ),
    invalid(
        "Adam: no state",
        lambda: adam().load_state_dict({}),
        "state_dict: ",
        r"got keys \[\]",
        "exp_avg",
    ),
    invalid(
        "Adam: moments",
        lambda: step_from(exp_avg=torch.zeros(40, 5)),
        "exp_avg",
        r"got shape \(40, 5\)",
        r"\(5, 4\)",
    ),
    invalid(
        "Adam: stamps",
        lambda: step_from(stamp=torch.ones(5, dtype=torch.int32)),
        "stamp",
        "got 1 to 1",
        "0 to 0",
    ),
    invalid(
        "Adam: rates", lambda: step_from(step=3), "state_dict: ", "'lr_runs': ..", "from step 1"
    ),
    *(
        invalid(
            f"Adam: rates {name}",
            lambda rates=rates: step_from(lr_runs=rates),
            "state_dict: ",
            "'lr_runs': tensor",
            "float64 rates, one a step",
        )
        for name, rates in {
            "of more steps": torch.ones(1, dtype=torch.float64),
            "of another dtype": torch.ones(0),
            "in a matrix": torch.ones(0, 1, dtype=torch.float64),
        }.items()
    ),
    refused(
        "Adam: moments of NaN",
        lambda: step_from(exp_avg=torch.full((5, 4), math.nan)),
        "exp_avg of row 1",
        "got nan",
        "expected finite",
        kind=NonFiniteError,
    ),
]
DATA = [
    invalid("Loader: B of 0", lambda: batch(batch_size=0), "batch_size", "got 0", r"in \[1, "),
    wrong_type(
        "Loader: B of 1.5", lambda: batch(batch_size=1.5), "batch_size: ", "got 1.5", "whole"
    ),
    invalid("Loader: L of 0", lambda: batch(max_history=0), "max_history", "got 0", r"in \[1, "),
    invalid("Loader: a seed of 2^64", lambda: batch(seed=2**64), "seed", "got 1844", r"2\^64"),
    invalid("Loader: sampling", lambda: batch(sampling="all"), "sampling", "got 'all'", "'epoch'"),
    wrong_type(
        "Loader: a list", lambda: batch(items=[1, 2]), "items: ", "got list", "a NumPy array"
    ),
    no_data(
        "Loader: dtype", lambda: batch(items=np.arange(40)), "items", "got int64", "int32 array"
    ),
    no_data(
        "Loader: stride",
        lambda: batch(items=np.arange(80, dtype=np.int32)[::2]),
        "items",
        "got int32, not cont",
        "a contiguous",
    ),
    no_data(
        "Loader: shape",
        lambda: batch(spans=np.zeros((4, 3), np.int64)),
        "spans",
        "batch loader",
        r"expected shape \(4, 2\)",
    ),
    no_data(
        "Loader: padding for an item",
        lambda: batch(items=np.zeros(40, np.int32)),
        r"items\[0\]",
        "= 0",
        "index >= 1",
    ),
    no_data(
        "Loader: spans outside",
        lambda: batch(spans=SEQUENCES["spans"] + 1),
        r"spans\[3\]",
        "31 to 41",
        "<= 40",
    ),
    no_data(
        "Loader: a user twice",
        lambda: batch(users=np.zeros(4, np.int32)),
        "users",
        "0 occurs twice",
        "users: 0",
    ),
    no_data(
        "Loader: nobody",
        lambda: batch(min_history=99),
        "min_history = 99",
        "none of the 4",
        "more than",
    ),
    accepted(
        "Loader: B above the users", lambda: batch(batch_size=9), lambda b: len(b.target) == 9
    ),
    no_data(
        "Dataset: no folder",
        lambda: Dataset.open("none"),
        "none: ",
        "got no manifest",
        "a folder written by",
    ),
    no_data(
        "Dataset: a file",
        lambda: Dataset.open("raw.parquet"),
        "raw.parquet: ",
        "got no manifest",
        "a folder",
    ),
    invalid(
        "Dataset: split",
        lambda: Dataset.open("data").eval_split("train"),
        "split",
        "'train'",
        "'valid' or",
    ),
    refused(
        "prepare: filter",
        lambda: PrepareSettings(filter="all"),
        "filter: ",
        "got 'all'",
        "one-pass",
        kind=ConfigError,
    ),
    refused(
        "prepare: half a count",
        lambda: PrepareSettings(min_item=1.5),
        "min_item: ",
        "got 1.5",
        "whole",
        kind=ConfigError,
    ),
    *(
        refused(
            f"prepare: a truth for {name}",
            lambda name=name: PrepareSettings(**{name: True}),
            f"{name}: ",
            "got True",
            "a whole number",
            kind=ConfigError,
        )
        for name in ("min_item", "min_user", "seed")
    ),
    refused(
        "prepare: a number for a name",
        lambda: PrepareSettings(user_col=3),
        "user_col: ",
        "got 3",
        "a name",
        kind=ConfigError,
    ),
    no_data(
        "prepare: nothing", lambda: prepare([], "out"), "source", "no source given", "at least one"
    ),
    no_data(
        "prepare: one path that is none",
        lambda: prepare("none.csv", "out"),
        "none.csv: ",
        "no such",
        "raw inter",
    ),
    refused(
        "Config: dim of 1.5",
        lambda: ModelConfig(dim=1.5),
        "model.dim: ",
        "got 1.5",
        "whole",
        kind=ConfigError,
    ),
    refused(
        "Config: a name",
        lambda: ModelConfig(name="x"),
        "model.name: ",
        "got 'x'",
        "comirec-sa",
        kind=ConfigError,
    ),
    refused(
        "Config: beta",
        lambda: LossConfig(beta=None),
        "loss.beta: ",
        "got None",
        "a number",
        kind=ConfigError,
    ),
    refused(
        "Config: seed",
        lambda: TrainConfig(seed=True),
        "train.seed: ",
        "got True",
        "whole",
        kind=ConfigError,
    ),
    refused(
        "Config: a section",
        lambda: Config(model={}),
        "model: ",
        "got {}",
        "ModelConfig",
        kind=ConfigError,
    ),
    wrong_type(
        "train: a mapping",
        lambda: remi_fast.train("data", "out", {}),
        "config: ",
        "got {}",
        "a remi_fast.Config",
    ),
    refused(
        "load: nothing",
        lambda: remi_fast.load("none"),
        "none: ",
        "no such folder",
        "made by",
        kind=RunFolderError,
    ),
    refused(
        "load: a dataset",
        lambda: remi_fast.load("data"),
        "data: ",
        "not a run",
        "made by",
        kind=RunFolderError,
    ),
    refused(
        "resume: a dataset",
        lambda: remi_fast.resume("data"),
        "data: ",
        "not a run",
        "made by",
        kind=RunFolderError,
    ),
    invalid("recommend: k of 0", lambda: recommend(k=0), "k: ", "got 0", "at least 1"),
    wrong_type("recommend: k of 1.5", lambda: recommend(k=1.5), "k: ", "got 1.5", "a whole number"),
    wrong_type(
        "recommend: a list",
        lambda: remi_fast.load("run").recommend([1]),
        "histories: ",
        "got list",
        "polars.DataFrame",
    ),
    no_data(
        "recommend: no column",
        lambda: remi_fast.load("run").recommend(pl.DataFrame({"user_id": [1], "itm_id": [1]})),
        "histories: ",
        "'item_id'",
        "did you mean itm_id",
    ),
    no_data(
        "recommend: lists",
        lambda: recommend({"item_id": [["t0-1", None]]}),
        "item_id",
        r"List\(String\)",
        "or text",
    ),
    no_data(
        "recommend: fractions",
        lambda: recommend({"user_id": [1.5]}),
        "user_id",
        "Float64",
        "whole numbers",
    ),
    no_data(
        "recommend: nobody's history",
        lambda: recommend({"user_id": ["a", None], "item_id": ["t0-1"] * 2}),
        "user_id",
        "null in row 1",
        "a value",
    ),
    no_data(
        "recommend: words for times",
        lambda: recommend({"timestamp": ["soon"]}),
        "timestamp",
        "String",
        "numbers or dates",
    ),
    no_data(
        "recommend: numbers for text",
        lambda: recommend({"item_id": [7]}),
        "none of the 1",
        r"got item_id \[7\]",
        r"knows \['t",
    ),
    accepted(
        "recommend: k above the items", lambda: recommend(k=10**15).height, lambda rows: rows == 96
    ),
    accepted(
        "recommend: no item beside one",
        lambda: recommend({"user_id": ["a", "a"], "item_id": ["t0-1", None]}, k=2).height,
        lambda rows: rows == 2,
    ),
]
CASES = [*TABLES, *DATA]
