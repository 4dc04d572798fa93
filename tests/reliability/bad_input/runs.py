"""Run folders, and what `train`, `train --resume` and `evaluate` are given."""

import json
import shutil

from remi_fast.config import load_config
from remi_fast.data.prepare import PrepareSettings
from remi_fast.data.prepare import prepare as prepare_data

from .case import SMALL, accepted, nan_in_the_best_weights, refused, without

TRAIN = f"train data {SMALL} --out"
RESUME = "train --out run --resume"


def replaced(name, by):
    """`given` that one folder of the world stands in the place of another."""

    def given(folder):
        shutil.rmtree(folder / name)
        shutil.copytree(folder / by, folder / name)

    return given


def prepared(text):
    """`given` that the folder `tiny` holds a dataset of these rows, all of them."""

    def given(folder):
        (folder / "tiny.csv").write_text("user,item,time\n" + text)
        prepare_data(folder / "tiny.csv", folder / "tiny", PrepareSettings(filter="none"))

    return given


def same_result(folder, printed):
    return json.loads(printed) == json.loads((folder / "run/result.json").read_text())


ONE_ITEM_USERS = "".join(f"{user},{user % 3},1\n" for user in range(30))
FEW_USERS = "".join(f"{user},{item},{item}\n" for user in range(5) for item in range(9))
ALL_ONE_ITEM = "".join(f"{user},7,{time}\n" for user in range(30) for time in range(9))
BEST = r"run/checkpoints/best: "
CASES = [
    # train: data and folders
    refused(
        "no data",
        f"train none --out out {SMALL}",
        "none: ",
        "no such file or folder",
        "expected a prepared folder, a raw file",
    ),
    refused(
        "no data, and new folders",
        f"train none --out a/b/out {SMALL}",
        "none: ",
        "no such file or folder",
        "expected a prepared folder, a raw file",
    ),
    refused(
        "a raw file without rows, and new folders",
        f"train x.csv --out a/b/out {SMALL}",
        "x.csv: ",
        "only a header",
        "expected at least one",
        {"x.csv": "user,item\n"},
    ),
    refused(
        "a run for data",
        f"train run --out out {SMALL}",
        "run: ",
        "a run folder",
        "expected data: .* `--out run --resume`, .* trained on, run/data",
    ),
    refused(
        "DATA not given",
        f"train --out out {SMALL}",
        "DATA: ",
        "got nothing",
        "expected a prepared folder",
        kind=2,
    ),
    refused("--out not given", "train data", "arguments", "required", "out", kind=2),
    refused(
        "users of one item, trained",
        f"train tiny --out out {SMALL}",
        "the valid split",
        "no users",
        "expected at least one",
        given=prepared(ONE_ITEM_USERS),
    ),
    refused(
        "nobody to validate on",
        f"train tiny --out out {SMALL}",
        "the valid split",
        "no users",
        "expected at least one",
        given=prepared(FEW_USERS),
    ),
    accepted(
        "one item, trained",
        f"train tiny --out out {SMALL} --json",
        lambda folder, printed: json.loads(printed)["test"]["hit_rate@20"] == 1,
        given=prepared(ALL_ONE_ITEM),
    ),
    accepted(
        "a run called demo",
        f"{TRAIN} demo",
        lambda folder, printed: load_config(folder / "demo/config.yaml").optim.lr == 1e-3,
    ),
    refused(
        "a run that is there",
        f"{TRAIN} run",
        "run: ",
        "exists already",
        "another --out, or continue it with --resume",
    ),
    refused(
        "a run in the place of a file",
        f"{TRAIN} raw.parquet",
        "raw.parquet: ",
        "exists already",
        "another --out",
    ),
    refused(
        "a run below a file",
        f"{TRAIN} raw.parquet/run",
        "raw.parquet/run: ",
        "Not a directory",
        "cannot be written",
    ),
    refused(
        "a run where nothing can be written",
        f"{TRAIN} /proc/none",
        "/proc/none: ",
        "No such file",
        "cannot be written",
    ),
    # train --resume
    refused(
        "--resume with DATA",
        "train demo --out run --resume",
        "--resume: ",
        "got DATA 'demo'",
        "expected none",
        kind=2,
    ),
    refused(
        "--resume with a setting",
        f"{RESUME} --loss.beta=3",
        "--resume: ",
        "got '--loss.beta=3'",
        "expected no settings",
        kind=2,
    ),
    refused(
        "--resume with a preset",
        f"{RESUME} --preset gowalla",
        "--resume: ",
        "got '--preset'",
        "expected no settings",
        kind=2,
    ),
    accepted("--resume of a finished run", f"{RESUME} --json", same_result),
    accepted(
        "--resume from the start",
        f"{RESUME} --json",
        same_result,
        given=without("run/checkpoints/last", "run/result.json"),
    ),
    refused(
        "--resume of nothing",
        "train --out none --resume",
        "none: ",
        "no such folder",
        "expected a folder made by",
    ),
    refused(
        "--resume of a dataset",
        "train --out data --resume",
        "data: ",
        "not a run folder",
        "expected a folder made by",
    ),
    refused(
        "--resume of a file",
        "train --out raw.parquet --resume",
        "raw.parquet: ",
        "not a run folder",
        "expected a folder made by",
    ),
    refused(
        "--resume without data.json",
        RESUME,
        "run/data.json: ",
        "missing",
        "expected it in a folder made by",
        given=without("run/data.json"),
    ),
    refused(
        "--resume without weights",
        "train --out weightless --resume",
        "weightless: ",
        "got train.checkpoints 'none'",
        "expected 'all'",
    ),
    refused(
        "a checkpoint that is no checkpoint",
        RESUME,
        "run/checkpoints/last: ",
        "not a checkpoint",
        "expected it to hold state.json",
        given=replaced("run/checkpoints/last", by="data"),
    ),
    refused(
        "a checkpoint of another dimension",
        RESUME,
        "run/checkpoints/last: checkpoint of another model",
        r"got extractor.positions of \(\(20, 16\)",
        r"expected \(\(20, 8\)",
        given=replaced("run/checkpoints/last", by="wider/checkpoints/last"),
    ),
    refused(
        "a checkpoint of another K",
        RESUME,
        "run/checkpoints/last: checkpoint of another model",
        r"got extractor.w2 of \(\(32, 1\)",
        r"expected \(\(32, 2\)",
        given=replaced("run/checkpoints/last", by="fewer/checkpoints/last"),
    ),
    refused(
        "a dataset that is gone",
        RESUME,
        "run/data.json: ",
        "got no folder run/data",
        "move it back",
        given=without("run/data"),
    ),
    refused(
        "a dataset that changed",
        RESUME,
        "run/data: the dataset changed",
        "got checksum",
        "expected [0-9a-f]+ as in run/data.json",
        given=replaced("run/data", by="other"),
    ),
    # evaluate
    refused(
        "evaluate nothing", "evaluate none", "none: ", "no such folder", "expected a folder made by"
    ),
    refused(
        "evaluate a dataset",
        "evaluate data",
        "data: ",
        "not a run folder",
        "expected a folder made by",
    ),
    refused(
        "where nothing can be read",
        "evaluate raw.parquet/run",
        "raw.parquet/run: ",
        "no such folder",
        "expected a folder made by",
    ),
    refused(
        "evaluate without weights",
        "evaluate weightless",
        "weightless: ",
        "got train.checkpoints 'none'",
        "expected 'all' or 'best'",
    ),
    refused(
        "evaluate before a validation",
        "evaluate run",
        "run: ",
        "no best checkpoint",
        "resume it until its first validation",
        given=without("run/checkpoints/best"),
    ),
    refused(
        "evaluate weights of another dimension",
        "evaluate run",
        f"{BEST}checkpoint of another model",
        r"\(\(20, 16\)",
        r"expected \(\(20, 8\)",
        given=replaced("run/checkpoints/best", by="wider/checkpoints/best"),
    ),
    refused(
        "evaluate weights of NaN",
        "evaluate run",
        f"{BEST}table.weight",
        r"got nan at \[5, 3\]",
        "expected finite numbers",
        given=nan_in_the_best_weights,
    ),
    refused(
        "evaluate on a dataset that is gone",
        "evaluate run",
        "run/data.json: ",
        "got no folder run/data",
        "move it back",
        given=without("run/data"),
    ),
    refused(
        "evaluate on a dataset that changed",
        "evaluate run",
        "run/data: the dataset changed",
        "got checksum",
        "expected [0-9a-f]+ as in run/data.json",
        given=replaced("run/data", by="other"),
    ),
    refused(
        "evaluate at 0",
        "evaluate run --k 20 0",
        "--k: ",
        r"got \[20, 0\]",
        "expected cut-offs >= 1",
        kind=2,
    ),
    refused(
        "evaluate at a word", "evaluate run --k many", "k: ", "got many", "a whole number", kind=2
    ),
    accepted(
        "evaluate at more than all items",
        "evaluate run --json --k 1000000000000",
        lambda folder, printed: json.loads(printed)["hit_rate@1000000000000"] == 1,
    ),
    refused(
        "evaluate an unknown split",
        "evaluate run --split train",
        "--split",
        "'train'",
        "one of valid, test",
        kind=2,
    ),
]
