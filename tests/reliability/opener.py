"""A child process that opens hostile files: `python -m tests.reliability.opener`.

Each line on stdin is JSON: what to open, the path. Each answer is JSON, too: the type of the error
or null, its message, and by how many bytes the process outgrew its size.
"""

import gc
import json
import resource
import signal
import sys
from pathlib import Path

from remi_fast import files
from remi_fast.config import Config, LossConfig, ModelConfig, TrainConfig, load_config
from remi_fast.data.dataset import Dataset
from remi_fast.data.readers import ColumnNames, read
from remi_fast.errors import RemiFastError
from remi_fast.models.recommender import make_model
from remi_fast.training import checkpoint
from remi_fast.training.run_folder import RunFolder
from remi_fast.training.step import TrainingStep
from tests.memory import growth

ITEMS, MODEL = 20, ModelConfig(dim=4, num_interests=2, max_history=3)
HEADROOM = 4 << 30  # of addresses: less than would hurt the machine


def open_dataset(path):
    dataset = Dataset.open(path)
    return dataset.item_table, dataset.user_table


def open_weights(path):
    return checkpoint.load_weights(path, make_model(MODEL, ITEMS, seed=0))


def open_state(path):
    config = Config(model=MODEL, loss=LossConfig(num_negatives=4), train=TrainConfig(steps=1000))
    step = TrainingStep(make_model(MODEL, ITEMS, seed=0), config)
    return checkpoint.restore_training_state(path, step)


def open_run(path):
    run = RunFolder.open(path)
    return run.config(), run.data(), run.items()


OPENERS = {
    "dataset": open_dataset,
    "weights": open_weights,
    "state": open_state,
    "run": open_run,
    "config": load_config,
    "json": files.read_checked_json,
    "raw": lambda path: read([path], ColumnNames()),
}


def attempt(what, path):
    """The answer to one line."""
    answer = {"error": None, "message": ""}

    def call():
        try:
            OPENERS[what](Path(path))
        except RemiFastError as error:
            answer.update(error=type(error).__name__, message=str(error))
        except BaseException as error:
            answer.update(error=f"untyped {type(error).__name__}", message=str(error)[:1000])

    signal.alarm(60)  # what hangs is ended
    answer["growth"] = growth(call)
    signal.alarm(0)
    return answer


def main():
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM, size + HEADROOM))
    gc.freeze()  # so that collecting garbage takes no time
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        answers.write(json.dumps(attempt(*json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
