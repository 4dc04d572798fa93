"""Pop, the baseline that is counted rather than trained."""

from typing import Any

from remi_fast import files
from remi_fast.config import TrainConfig
from remi_fast.data.dataset import Dataset
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.retrieval.evaluate import evaluate
from remi_fast.training import checkpoint
from remi_fast.training.frequencies import training_counts
from remi_fast.training.run_folder import RunFolder


def fit(
    model: MultiInterestModel, run: RunFolder, dataset: Dataset, train: TrainConfig
) -> dict[str, Any]:
    """Count, evaluate and save a "pop" model; return the result of its run of no steps."""
    model.table.weight.copy_(training_counts(dataset)[:, None])
    valid = evaluate(model, dataset, "valid", max_users=train.eval_users or None)
    if train.checkpoints != "none":
        checkpoint.save_weights(run.best, model, {"step": 0, "valid": valid})
    result = {
        "best_step": 0,
        "valid": valid,
        "test_step": 0,
        "test": evaluate(model, dataset, "test"),
        "train": {"steps": 0, "samples_per_s": 0.0, "seconds": 0.0},
    }
    files.write_json(run.result_file, result)
    return result
