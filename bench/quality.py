"""Train several settings with several seeds on one dataset; print and save the test metrics.

    python -m bench.quality demo --out runs/demo-quality
    python -m bench.quality DATA --out RUNS --settings 0,0 1,100 --seeds 1 2 3 -- --train.steps=8000

A setting is beta,rr_lambda; 0,0 is the plain sampled softmax. What follows `--` goes to
`remi-fast train`. Runs that are there already are not repeated.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import results

SHOWN = ("recall@20", "hit_rate@20", "ndcg@20", "recall@50")


def train(data: str, out: Path, setting: str, seed: int, options: list[str]) -> dict[str, Any]:
    """One run in a process of its own; its result.json."""
    beta, rr_lambda = setting.split(",")
    if not (out / "result.json").is_file():
        chosen = [f"--loss.beta={beta}", f"--loss.rr_lambda={rr_lambda}", f"--train.seed={seed}"]
        words = ["--resume"] if out.exists() else [data, *options, *chosen]
        command = [sys.executable, "-m", "remi_fast.cli", "train", "--out", str(out), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return result


def main() -> None:
    """Train, print a table of means and standard deviations, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="prepared folder, or demo")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--settings", nargs="+", default=["0,0", "1,100"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    arguments, options = parser.parse_args(words[:cut]), words[cut + 1 :]
    runs = []
    print(f"{'beta,lambda':<12}" + "".join(f"{name:>20}" for name in SHOWN) + "   (test)")
    for setting in arguments.settings:
        tests = []
        for seed in arguments.seeds:
            out = arguments.out / f"beta-lambda-{setting}-seed-{seed}"
            result = train(arguments.data, out, setting, seed, options)
            tests.append(result["test"])
            runs.append({"setting": setting, "seed": seed, **result})
        row = f"{setting:<12}"
        for name in SHOWN:
            values = [test[name] for test in tests]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            row += f"{statistics.mean(values):>12.4f} ± {spread:.4f}"
        print(row, flush=True)
    if arguments.save:
        name = Path(arguments.data).name
        print(results.save(arguments.save, {"data": name, "options": options, "runs": runs}))


if __name__ == "__main__":
    main()
