"""The whole story on the demo data: prepare, train, compare, recommend, export, report."""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import polars as pl

import remi_fast
from remi_fast.cli import main
from remi_fast.config import load_config, preset_path
from remi_fast.data.demo import demo_interactions
from remi_fast.data.prepare import prepare
from remi_fast.export import export_run
from remi_fast.retrieval.evaluate import evaluate


def show(what: str, value: object) -> None:
    print(f"{what}: {value}", flush=True)  # noqa: T201


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)

    # Raw interactions are a file with columns of users, items and times.
    demo_interactions().write_parquet(folder / "interactions.parquet")
    data = prepare(folder / "interactions.parquet", folder / "data")
    show("users, items, interactions", list(data.manifest["counts"].values()))

    # REMI adds hard negatives (beta) and the routing regularizer (rr_lambda) to plain training.
    remi = load_config(preset_path("demo"), (f"--train.steps={steps}",))
    plain = replace(remi, loss=replace(remi.loss, beta=0.0, rr_lambda=0.0))
    for run, config in {"plain": plain, "remi": remi}.items():
        show("training", f"{run}, {steps} steps")
        result = remi_fast.train(folder / "data", folder / run, config)
        show(f"{run}, test recall@50", round(result["test"]["recall@50"], 4))

    # The same metrics at other cut-offs, without what a user has had already.
    recommender = remi_fast.load(folder / "remi")
    model = recommender.model
    metrics = evaluate(model, data, "test", ks=(10, 100), exclude_seen=True)
    show("remi, without seen items", {name: round(value, 4) for name, value in metrics.items()})

    # Somebody new: a history is enough. Items the model does not know are left out. With a
    # diversity the list has more of the catalogue's clusters, or of categories of your own.
    items = ["topic-003-item-01", "topic-003-item-02", "topic-017-item-00", "no such item"]
    histories = pl.DataFrame({"user_id": "somebody", "item_id": items})
    for diversity in (0.0, 1.0):
        found = recommender.recommend(histories, k=8, exclude_seen=True, diversity=diversity)
        show(f"recommended with diversity {diversity}", found["item_id"].to_list())

    # Files for other programs. With the extras `faiss` and `export`, also an index and ONNX.
    exported = export_run(folder / "remi", folder / "exported", ["safetensors", "npy", "torch"])
    show("exported", sorted(exported.manifest["files"]))

    # A page to look at (it needs the extra `report`), as every command from Python.
    show("report", "looking into both runs")
    main(["report", f"{folder}/plain", f"{folder}/remi", "--out", f"{folder}/report.html"])
    show("report, bytes", (folder / "report.html").stat().st_size)
