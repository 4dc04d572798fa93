"""Writing measured results to bench/results/, with what is needed to judge and repeat them.

python -m pytest bench/bench_loader.py --benchmark-json=FILE
python -m bench.results loader FILE        # keeps the medians of a pytest-benchmark file
python -m bench.results steps FILE         # or what `remi-fast bench --out FILE` wrote

In the environment: REMI_FAST_COMMIT names the commit where there is no git; REMI_FAST_RESULTS is
another folder to write to.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remi_fast.training.run_folder import environment

FOLDER = Path(os.environ.get("REMI_FAST_RESULTS") or Path(__file__).parent / "results")


def save(name: str, results: Any) -> Path:
    """Write `results` with commit, versions and hardware to bench/results/<name>.json."""
    record = {"commit": commit(), "environment": environment(), "results": results}
    words = [Path(word).name if "/" in word else word for word in sys.argv]  # no local paths
    record["environment"]["command"] = words
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def show(table: Mapping[str, Any]) -> None:
    """Print what `remi_fast.benchmark.turns.compared` gives, and what else is known of each."""
    width = max(map(len, table)) + 2
    print(f"{'contestant':<{width}}{'ms':>10}   against the first")
    for name, row in table.items():
        low, high = row["ratio_range"]
        ratio = f"{row['ratio']:>9.2f} ({low:.2f} to {high:.2f})"
        more = {k: v for k, v in row.items() if k not in ("ms", "ratio", "ratio_range", "rounds")}
        print(f"{name:<{width}}{row['ms']:>10.3f}{ratio}  {more or ''}")


def commit() -> str:
    """What `git describe` says of this checkout, else REMI_FAST_COMMIT, else "unknown".

    It is "-dirty" where anything but results was changed: a program may save several times.
    """

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    try:
        described = git("describe", "--always", "--abbrev=12").stdout.strip()
        changed = git("diff", "--quiet", "HEAD", "--", ":(top)", ":(top,exclude)bench/results")
    except FileNotFoundError:  # no git
        described = ""
    if not described:
        return os.environ.get("REMI_FAST_COMMIT") or "unknown"
    return described + ("-dirty" if changed.returncode else "")


def _keep(name: str, path: Path) -> Path:
    """Save what is in a file of pytest-benchmark, or of `remi-fast bench`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if "cases" not in content:
        return save(name, _of_pytest_benchmark(content))
    sys.argv = content["environment"]["command"]  # it was measured by that
    return save(name, {"threads": content["threads"], "cases": content["cases"]})


def _of_pytest_benchmark(content: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds by group and benchmark."""
    groups: dict[str, Any] = {}
    for entry in content["benchmarks"]:
        stats = {name: round(1e3 * entry["stats"][name], 4) for name in ("median", "min", "max")}
        stats |= {"rounds": entry["stats"]["rounds"], "unit": "ms", **entry["extra_info"]}
        groups.setdefault(entry["group"], {})[entry["name"]] = stats
    return groups


if __name__ == "__main__":
    print(_keep(sys.argv[1], Path(sys.argv[2])))
