"""The picture of a sweep: what every setting came to, and how it came there. Needs matplotlib."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from remi_fast import files
from remi_fast.retrieval.metrics import SELECTION_METRIC
from remi_fast.sweep.runs import mean_and_deviation
from remi_fast.sweep.table import CHOICE, Row, by_choice

MOST = 40  # settings that can be read in one picture
FEW = 10  # that can be told apart by hues
LABEL = 36  # characters of a name in a line


def draw(rows: Sequence[Row], data: str, path: Path) -> None:
    """Write `picture` as a .png."""
    figure = picture(rows, data)
    files.write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def picture(rows: Sequence[Row], data: str) -> Figure:
    """Test recall@50 of each setting, a dot for each seed, beside its validation curve.

    The name of the setting that is best by validation is bold. Of more than 40 settings, the best
    40 are shown.
    """
    rank = {row.name: place for place, row in enumerate(by_choice(rows))}
    shown = [row for row in rows if rank[row.name] < MOST]
    colors = _colors([rank[row.name] for row in shown])
    names = [textwrap.fill(row.name, LABEL) for row in shown]
    height = 1.8 + len(shown) * (0.18 + 0.17 * max(name.count("\n") + 1 for name in names))
    figure = Figure(figsize=(13, max(4.5, height)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    _results(left, shown, colors)
    left.set_yticks(range(len(shown)), names)
    for row, label in zip(shown, left.get_yticklabels(), strict=True):
        label.set_fontweight("normal" if rank[row.name] else "bold")
    _curves(right, shown, colors)
    cut = f", {MOST} best of {len(rows)} settings" if len(shown) < len(rows) else ""
    figure.suptitle(f"{data}{cut} (bold: best by validation)")
    return figure


def _colors(ranks: Sequence[int]) -> list[Any]:
    """Hues for a few; for many, from bright for the best to dark."""
    if len(ranks) <= FEW:
        return [matplotlib.colormaps["tab10"](place) for place in range(len(ranks))]
    return [matplotlib.colormaps["viridis"](0.9 * (1 - rank / (len(ranks) - 1))) for rank in ranks]


def _results(axes: Any, rows: Sequence[Row], colors: Sequence[Any]) -> None:
    for place, (row, color) in enumerate(zip(rows, colors, strict=True)):
        seeds = row.values("test", SELECTION_METRIC)
        mean, deviation = mean_and_deviation(seeds)
        axes.errorbar(mean, place, xerr=deviation, fmt="|", color=color, ms=16, mew=2.5, lw=2.5)
        below = place + 0.25 if len(seeds) > 1 else place
        axes.plot(seeds, [below] * len(seeds), "o", color=color, alpha=0.7, mew=0, ms=6)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    several = any(len(row.trials) > 1 for row in rows)
    axes.set_title("Test: mean ± std. deviation; dots: seeds" if several else "Test: one seed")
    axes.set_xlabel(f"test {SELECTION_METRIC} (share of held-out items found)")
    axes.grid(axis="x", alpha=0.3)


def _curves(axes: Any, rows: Sequence[Row], colors: Sequence[Any]) -> None:
    for row, color in zip(rows, colors, strict=True):
        curves = [trial.curve() for trial in row.trials]
        steps = sorted(set.intersection(*map(set, curves)))  # that all seeds came to
        if not steps:  # nothing was trained
            axes.axhline(row.metrics()[CHOICE][0], color=color, ls="--")
            continue
        found = [mean_and_deviation([curve[step] for curve in curves]) for step in steps]
        marker = "o" if len(steps) == 1 else ""
        axes.plot(steps, [mean for mean, _ in found], color=color, marker=marker)
        low, high = [m - d for m, d in found], [m + d for m, d in found]
        axes.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
    several = any(len(row.trials) > 1 for row in rows)
    axes.set_title(f"Validation{': mean over seeds; band: ± std. deviation' if several else ''}")
    axes.set(xlabel="training step", ylabel=f"validation {SELECTION_METRIC}")
    axes.grid(alpha=0.3)
