"""One real training and its curve: validation by step and second, the test metrics, both times.

    python -m bench.training_curve DATA --steps 100000 --save gpu_training

DATA is a folder made by `remi-fast prepare`. The settings are the published ones but for those of
the options. "steps alone" is the time of the training steps, "in all" the clock on the wall, with
validations, checkpoints and the test.
"""

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench import results
from remi_fast import api
from remi_fast.config import Config, LossConfig, TrainConfig, as_dict
from remi_fast.training.run_folder import RunFolder


def train(data: Path, config: Config, most_seconds: float) -> dict[str, Any]:
    """Result, times and curve of one training, in a folder that is not kept; after so many seconds
    it is interrupted, which leaves its curve so far."""
    interrupt = threading.Timer(most_seconds, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.daemon = True
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        start = time.perf_counter()
        interrupt.start()
        try:
            result = api.train(data, run, config)
        except KeyboardInterrupt:  # while the model was tested
            result = {"interrupted": True}
        interrupt.cancel()
        seconds = time.perf_counter() - start
        text = RunFolder(run).metrics_file.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    speeds = [line["samples_per_s"] for line in lines if "samples_per_s" in line]
    return {
        "data": data.name,
        "config": as_dict(config),
        "steps alone, s": result.get("train", {}).get("seconds"),
        "samples/s": speeds[-1] if speeds else None,  # of the steps alone, so far
        "in all, s": round(seconds, 1),
        "result": result,
        "curve": [line for line in lines if line.get("split")],
    }


def main() -> None:
    """Train, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--eval-every", type=int, default=TrainConfig.eval_every)
    parser.add_argument("--batch-size", type=int, default=TrainConfig.batch_size)
    parser.add_argument("--beta", type=float, default=LossConfig.beta)
    parser.add_argument("--rr-lambda", type=float, default=LossConfig.rr_lambda)
    parser.add_argument("--seconds", type=float, default=1e6, help="then it is interrupted")
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    config = Config(
        loss=LossConfig(beta=arguments.beta, rr_lambda=arguments.rr_lambda),
        train=TrainConfig(
            steps=arguments.steps,
            eval_every=arguments.eval_every,
            batch_size=arguments.batch_size,
        ),
    )
    found = train(arguments.data, config, arguments.seconds)
    for point in (each for each in found["curve"] if each["split"] == "valid"):
        print(f"step {point['step']:>8}: recall@50 {point['recall@50']:.4f}")
    print({name: value for name, value in found.items() if name not in ("curve", "config")})
    if arguments.save:
        print(results.save(arguments.save, found))


if __name__ == "__main__":
    main()
