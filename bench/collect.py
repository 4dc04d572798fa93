"""Keep the results of run folders in bench/results/: settings that are not the defaults, metrics.

    python -m bench.collect RUN... --save quality_choices

The commit it writes is that of the checkout it runs in: the trainings', if they ran there.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from bench import results
from remi_fast.config import Config, as_dict
from remi_fast.retrieval.metrics import SELECTION_METRIC
from remi_fast.training.run_folder import RunFolder


def settings(run: RunFolder) -> dict[str, Any]:
    """What differs from the defaults, as dotted keys."""
    default = as_dict(Config())
    return {
        f"{section}.{key}": value
        for section, values in as_dict(run.config()).items()
        for key, value in values.items()
        if value != default[section][key]
    }


def record(run: RunFolder) -> dict[str, Any]:
    """One run: data, settings, metrics, and the last diagnostics."""
    log = run.metrics_file  # pop has none
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines() if log.exists() else [])
    diagnostics = [line for line in lines if line.get("split") == "diagnostics"]
    return {
        "data": run.data()[0].name,
        "settings": settings(run),
        **json.loads(run.result_file.read_text(encoding="utf-8")),
        "diagnostics": diagnostics[-1] if diagnostics else {},
    }


def main() -> None:
    """Collect, print a line each, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--save", required=True, help="name in bench/results/")
    arguments = parser.parse_args()
    records = [record(RunFolder.open(run)) for run in arguments.runs]
    for run, found in zip(arguments.runs, records, strict=True):
        valid, test = (found[split][SELECTION_METRIC] for split in ("valid", "test"))
        print(f"{run.name:<20}{valid:8.4f}{test:8.4f}")
    print(results.save(arguments.save, {"runs": records}))


if __name__ == "__main__":
    main()
