"""The picture of `remi-fast bench`. Needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from remi_fast import files
from remi_fast.benchmark.turns import times

OURS, PEER = "tab:blue", "tab:gray"


def draw(cases: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the time of a step of each contestant, axes for each case, as a .png."""
    figure = picture(cases)
    files.write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def picture(cases: Sequence[dict[str, Any]]) -> Figure:
    """cases: what `steps.compare` gives. Median with the range over rounds, on a log scale."""
    rows = max(len(case["contestants"]) for case in cases)
    size = (9, len(cases) * (0.9 + 0.36 * rows))
    figure = Figure(figsize=size, layout="constrained")
    for case, axes in zip(cases, figure.subplots(len(cases), 1, squeeze=False)[:, 0], strict=True):
        _dots(axes, case)
    return figure


def _dots(axes: Any, case: dict[str, Any]) -> None:
    table = case["contestants"]
    for place, (name, row) in enumerate(table.items()):
        low, high = min(row["rounds"]), max(row["rounds"])
        color = OURS if name.startswith("remi-fast") else PEER
        error = [[row["ms"] - low], [high - row["ms"]]]
        axes.errorbar(row["ms"], place, xerr=error, fmt="o", color=color, lw=1, capsize=2)
        axes.text(high * 1.1, place, f"{row['ms']:.3g} ms ({times(row['ratio'])})", va="center")
    axes.set_yticks(range(len(table)), list(table))
    axes.invert_yaxis()
    axes.set_xscale("log")
    rounds = [each for row in table.values() for each in row["rounds"]]
    lowest, highest = min(rounds), max(rounds)
    axes.set_xlim(lowest / 1.5, highest * 6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("milliseconds a step (logarithmic): median and range; in brackets, its ratio")
    title = f"batch {case['batch_size']:,}, {case['items']:,} items, {case['precision']}"
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
