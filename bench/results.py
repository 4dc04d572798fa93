"""Writing measured results to bench/results/, with what is needed to judge and repeat them."""

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
