"""The picture of `remi-fast bench`. Needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from remi_fast import files

OURS, PEER = "tab:blue", "tab:gray"


def draw(cases: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the time of a step of each contestant, a row of bars for each case, as a .png."""
    figure = picture(cases)
    files.write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def picture(cases: Sequence[dict[str, Any]]) -> Figure:
    """cases: what `steps.compare` gives. Median with the range over rounds, on a log scale."""
    rows = max(len(case["contestants"]) for case in cases)
    size = (9, len(cases) * (0.9 + 0.36 * rows))
    figure = Figure(figsize=size, layout="constrained")
    for case, axes in zip(cases, figure.subplots(len(cases), 1, squeeze=False)[:, 0], strict=True):
        _bars(axes, case)
    return figure


def _bars(axes: Any, case: dict[str, Any]) -> None:
    table = case["contestants"]
    first = next(iter(table.values()))["ms"]
    for place, (name, row) in enumerate(table.items()):
        low, high = min(row["rounds"]), max(row["rounds"])
        color = OURS if name.startswith("remi-fast") else PEER
        error = [[row["ms"] - low], [high - row["ms"]]]
        axes.barh(place, row["ms"], color=color, xerr=error, error_kw={"lw": 1, "capsize": 2})
        axes.text(high * 1.1, place, f"{row['ms']:.3g} ms ({row['ms'] / first:.2f})", va="center")
    axes.set_yticks(range(len(table)), list(table))
    axes.invert_yaxis()
    axes.set_xscale("log")
    highest = max(max(row["rounds"]) for row in table.values())
    axes.set_xlim(first / 4, highest * 6)
    axes.set_xlabel("milliseconds a step; in brackets, against the first")
    title = f"batch {case['batch_size']:,}, {case['items']:,} items, {case['precision']}"
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
