"""Writing measured results to bench/results/, with what is needed to judge and repeat them.

python -m pytest bench/bench_loader.py --benchmark-json=FILE
python -m bench.results loader FILE        # keeps the medians of a pytest-benchmark file
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from remi_fast.training.run_folder import environment

FOLDER = Path(__file__).parent / "results"


def save(name: str, results: Any) -> Path:
    """Write `results` with commit, versions and hardware to bench/results/<name>.json."""
    record = {"commit": _commit(), "environment": environment(), "results": results}
    words = [Path(word).name if "/" in word else word for word in sys.argv]  # no local paths
    record["environment"]["command"] = words
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def _commit() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _of_pytest_benchmark(path: Path) -> dict[str, Any]:
    """Milliseconds by group and benchmark."""
    groups: dict[str, Any] = {}
    for entry in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]:
        stats = {name: round(1e3 * entry["stats"][name], 4) for name in ("median", "min", "max")}
        stats |= {"rounds": entry["stats"]["rounds"], "unit": "ms", **entry["extra_info"]}
        groups.setdefault(entry["group"], {})[entry["name"]] = stats
    return groups


if __name__ == "__main__":
    print(save(sys.argv[1], _of_pytest_benchmark(Path(sys.argv[2]))))
