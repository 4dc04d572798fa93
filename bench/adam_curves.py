"""The same training with dense, deferred and lazy Adam on the item table: curves and a picture.

    python -m bench.adam_curves DATA --steps 4000 --save adam_curves --picture docs/adam_curves.png

Same batches, negatives, initial weights and dense optimizer; only the update of the item table
differs. "lazy" is torch's SparseAdam, which leaves idle rows where they are.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import results
from remi_fast.config import Config, TrainConfig
from remi_fast.data.dataset import Dataset
from remi_fast.data.loader import BatchLoader
from remi_fast.models.item_table import ItemTable
from remi_fast.models.recommender import make_model
from remi_fast.retrieval.evaluate import evaluate
from remi_fast.training.step import TrainingStep
from remi_fast.training.trainer import set_threads

LOSS_EVERY = 100  # steps a mean loss is taken over


class TableOptimizer:
    """One of torch's optimizers in DeferredAdam's place: a source of rows, and their update.

    What of DeferredAdam a `TrainingStep` on the CPU calls as long as all is finite. Nothing is
    grouped before: autograd sums the gradients of a row.
    """

    def __init__(self, table: ItemTable, make: Callable[..., torch.optim.Optimizer], sparse: bool):
        self.weight = nn.Parameter(table.weight.detach())  # the table's own memory
        self.optimizer = make([self.weight])
        self.param_groups = self.optimizer.param_groups
        self.sparse = sparse
        table.source = self

    def group(self, ids: Sequence[Tensor]) -> None:
        """Nothing."""

    def gather_each(self, ids: Sequence[Tensor], rows: None = None) -> list[Tensor]:
        """Rows with a gradient; the padding row gets none."""
        options: dict[str, Any] = {"padding_idx": 0, "sparse": self.sparse}
        return [nn.functional.embedding(each.long(), self.weight, **options) for each in ids]

    def read(self, ids: Tensor) -> Tensor:
        """Copies."""
        return self.weight.detach()[ids.long()]

    def collect(self) -> None:
        """Nothing: the gradient is the weight's."""

    def apply(self, rows: None) -> None:
        """Update, and forget the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()


def train(kind: str, data: Dataset, config: Config, eval_every: int) -> dict[str, Any]:
    """Mean losses and validation recall@50 along one training."""
    model = make_model(config.model, data.num_items, seed=config.train.seed)
    step = TrainingStep(model, config)
    lr = config.optim.lr
    if kind != "deferred":
        model.table.source = None
        sparse = kind == "lazy"
        make = torch.optim.SparseAdam if sparse else torch.optim.Adam
        step.table_optimizer = TableOptimizer(model.table, lambda p: make(p, lr=lr), sparse)
    loader = BatchLoader(
        data.items, data.train_users, data.train_spans,
        batch_size=config.train.batch_size, max_history=config.model.max_history,
        seed=config.train.seed, threads=1,
    )  # fmt: skip
    losses, recall, total, start = [], [], 0.0, time.perf_counter()
    for number in range(config.train.steps):
        batch = loader.batch(number)
        total += step(number, batch.history, batch.length, batch.target).total
        if (number + 1) % LOSS_EVERY == 0:
            losses.append(total / LOSS_EVERY)
            total = 0.0
        if (number + 1) % eval_every == 0:
            recall.append(evaluate(model, data, "valid")["recall@50"])
    print(f"{kind}: recall@50 {recall[-1]:.4f}, {time.perf_counter() - start:.0f} s")
    return {"loss": losses, "recall@50": recall}


def draw(curves: dict[str, dict[str, Any]], eval_every: int, title: str, path: Path) -> None:
    """Validation recall, and how far each training's loss is from dense Adam's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    styles = {"dense": ("-", "#1b1b1b", 5.0), "deferred": ("-", "#f2a900", 2.0)}
    styles["lazy"] = ("--", "#c2185b", 2.0)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    names = {"dense": "dense Adam", "deferred": "DeferredAdam", "lazy": "lazy (SparseAdam)"}
    for kind, curve in curves.items():
        line, color, width = styles[kind]
        steps = [eval_every * (i + 1) for i in range(len(curve["recall@50"]))]
        left.plot(steps, curve["recall@50"], line, color=color, lw=width, label=names[kind])
        if kind != "dense":
            apart = [
                abs(a / b - 1) for a, b in zip(curve["loss"], curves["dense"]["loss"], strict=True)
            ]
            steps = [LOSS_EVERY * (i + 1) for i in range(len(apart))]
            right.semilogy(
                steps, [max(x, 1e-9) for x in apart], line, color=color, label=names[kind]
            )
    left.set(xlabel="step", ylabel="validation recall@50", title="Quality")
    right.set(
        xlabel="step", ylabel="relative difference", title="Training loss against dense Adam's"
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Train three times, save, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="prepared folder")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--eval-every", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    parser.add_argument("--picture", type=Path, help="a .png to draw (needs matplotlib)")
    arguments = parser.parse_args()
    set_threads(0)
    train_config = TrainConfig(
        steps=arguments.steps, seed=arguments.seed, batch_size=arguments.batch_size
    )
    config, data = Config(train=train_config), Dataset.open(arguments.data)
    kinds = ("dense", "deferred", "lazy")
    curves = {kind: train(kind, data, config, arguments.eval_every) for kind in kinds}
    if arguments.save:
        options = {k: v.name if isinstance(v, Path) else v for k, v in vars(arguments).items()}
        print(results.save(arguments.save, {"options": options} | curves))
    if arguments.picture:
        title = f"{arguments.data.name}, {data.num_items:,} items, batch {arguments.batch_size}"
        draw(curves, arguments.eval_every, title, arguments.picture)


if __name__ == "__main__":
    main()
