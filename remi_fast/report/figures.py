"""The figures of a report. Needs matplotlib."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from remi_fast.report.probe import COLLAPSED, MAP_ITEMS, MAP_OTHERS, RETRIEVED, Probe
from remi_fast.report.runs import Points, Run
from remi_fast.report.style import COLORS, DASHES, OTHERS, SEQUENTIAL, styled
from remi_fast.retrieval.metrics import SELECTION_METRIC
from remi_fast.training import diagnostics

MOST_POINTS = 400  # of a line; more are averaged
NAME = 32  # characters of a run's name in a figure
BINS = 25
LINE = 0.18  # inches of a line in a legend
SECTIONS = ("Training", "Negatives", "Interests", "Routing", "Item map")

Drawn = list[tuple[str, Any]]  # names and artists of a legend


class Picture(NamedTuple):
    """A figure with the name of its file, what a reader should know, and whose it is."""

    name: str
    section: str
    caption: str
    figure: Figure


def draw(runs: Sequence[Run], probes: Sequence[Probe]) -> list[Picture]:
    """Every figure that the runs have data for."""
    with styled():
        pictures = [
            *(_curve(runs, curve) for curve in CURVES),
            _throughput(runs),
            _usage(runs, probes),
            _largest(runs, probes),
            *_routing(runs, probes),
            *_maps(runs, probes),
        ]
    drawn = [picture for picture in pictures if picture is not None]
    return sorted(drawn, key=lambda picture: SECTIONS.index(picture.section))


class Curve(NamedTuple):
    """A figure of what the runs have logged."""

    name: str
    section: str
    log: str  # and key: of `Run.points`
    key: str
    title: str
    unit: str
    caption: str


CURVES = [
    Curve(
        name="loss",
        section="Training",
        log="train",
        key="loss",
        title="Training loss",
        unit="loss (nats a sample)",
        caption="Mean of 100 steps, the routing regularizer included. The losses of other beta, "
        "lambda, samplers or numbers of negatives are on other scales.",
    ),
    Curve(
        name="recall",
        section="Training",
        log="valid",
        key=SELECTION_METRIC,
        title="Validation recall",
        unit=f"{SELECTION_METRIC} (share of held-out items)",
        caption="Dot: the best validation.",
    ),
    Curve(
        name="effective-negatives",
        section="Negatives",
        log="diagnostics",
        key="effective_negatives",
        title="Effective negatives",
        unit="effective negatives (share of N)",
        caption="exp(entropy) of the importance weights softmax(beta s): 1 weighs all negatives "
        "alike, as with beta 0; near 0, few hard ones decide.",
    ),
    Curve(
        name="hardness",
        section="Negatives",
        log="diagnostics",
        key="hardness",
        title="Hardness",
        unit="hardness (standard deviations)",
        caption="How far the weights lift the mean score of the negatives, in standard deviations "
        "of the scores.",
    ),
    Curve(
        name="interests-used",
        section="Interests",
        log="diagnostics",
        key="interests_used",
        title="Interests in use",
        unit="interests in use (of K)",
        caption="exp(entropy) of how often each interest is the nearest to the target.",
    ),
    Curve(
        name="largest-routing-weight",
        section="Routing",
        log="diagnostics",
        key="largest_routing_weight",
        title="Largest routing weight, in training",
        unit="mean largest routing weight",
        caption="Near 1, interests have collapsed onto one item each.",
    ),
]


def _curve(runs: Sequence[Run], curve: Curve) -> Picture | None:
    points = [run.points(curve.log, curve.key) for run in runs]
    found = _lines(runs, points, curve.title, curve.unit)
    if found is None:
        return None
    figure, axes = found
    for i, (run, (steps, values)) in enumerate(zip(runs, points, strict=True)):
        if curve.key == SELECTION_METRIC and run.best[0] in steps:
            best = steps.index(run.best[0])
            axes.plot(steps[best], values[best], "o", color=COLORS[i])
    return Picture(curve.name, curve.section, curve.caption, figure)


def _throughput(runs: Sequence[Run]) -> Picture | None:
    points = [run.throughput() for run in runs]
    found = _lines(runs, points, "Throughput", "samples a second")
    if found is None:
        return None
    figure, axes = found
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    caption = (
        "Between every two lines of the log, in training steps alone: validations and checkpoints "
        "are left out."
    )
    return Picture("throughput", "Training", caption, figure)


def _lines(
    runs: Sequence[Run], points: Sequence[Points], title: str, unit: str
) -> tuple[Figure, Any] | None:
    """A line for each run that has points, with a legend."""
    if not any(steps for steps, _ in points):
        return None
    figure, axes = _axes(title, "training step", unit)
    drawn: Drawn = []
    for i, (run, (steps, values)) in enumerate(zip(runs, points, strict=True)):
        if steps:
            x, y = thinned(steps), thinned(values)
            marker = "o" if len(x) == 1 else ""
            (line,) = axes.plot(x, y, color=COLORS[i], ls=DASHES[i], marker=marker, lw=1.5)
            drawn.append((short(run.label), line))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    _legend_of_runs(figure, runs, drawn)
    return figure, axes


def thinned(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """At most 400 values: means of groups of neighbours."""
    array = np.asarray(values, dtype=np.float64)
    size = -(-len(array) // MOST_POINTS)
    starts = np.arange(0, len(array), size)
    return np.add.reduceat(array, starts) / np.diff(np.append(starts, len(array)))


def _usage(runs: Sequence[Run], probes: Sequence[Probe]) -> Picture | None:
    shown = [i for i, probe in enumerate(probes) if probe.usage is not None]
    if not shown:
        return None
    figure, axes = _axes("Use of the interests", "interest", "share of targets (%)")
    drawn: Drawn = []
    width = 0.8 / len(shown)
    for place, i in enumerate(shown):
        usage = probes[i].usage
        assert usage is not None
        x = np.arange(len(usage)) + (place - (len(shown) - 1) / 2) * width
        bars = axes.bar(x, 100 * usage, 0.9 * width, color=COLORS[i])
        drawn.append((short(runs[i].label), bars))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="x", visible=False)
    _legend_of_runs(figure, runs, drawn)
    caption = (
        f"Of up to {diagnostics.USERS} validation users: the interest nearest to their first "
        "held-out item, by the best weights. Interests are numbered from 0, as in recommendations; "
        "the number of one means nothing in another run."
    )
    return Picture("interest-usage", "Interests", caption, figure)


def _largest(runs: Sequence[Run], probes: Sequence[Probe]) -> Picture | None:
    shown = [i for i, probe in enumerate(probes) if probe.largest is not None]
    if not shown:
        return None
    figure, axes = _axes(
        "Largest routing weights, best step",
        "largest routing weight of an interest",
        "interests (%)",
    )
    drawn: Drawn = []
    for i in shown:
        largest, collapsed = probes[i].largest, probes[i].collapsed
        assert largest is not None and collapsed is not None
        counts, edges = np.histogram(largest, BINS, (0, 1))
        line = axes.stairs(
            100 * counts / max(1, len(largest)), edges, color=COLORS[i], ls=DASHES[i], lw=1.5
        )
        name = f"{short(runs[i].label)}: " if len(runs) > 1 else ""
        drawn.append((f"{name}{100 * collapsed:.1f} % collapsed", line))
    axes.axvline(COLLAPSED, color=OTHERS, ls=":", lw=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    _legend(figure, drawn)
    caption = (
        f"Of every interest of up to {diagnostics.USERS} validation users, by the best weights. "
        f"Collapsed: more than {COLLAPSED} (dotted) on one item of the history. Histories of one "
        "item are left out."
    )
    return Picture("largest-routing-weights", "Routing", caption, figure)


def _routing(runs: Sequence[Run], probes: Sequence[Probe]) -> list[Picture]:
    """A figure a run, with the same users and the same scale: to be read side by side."""
    matrices = [m for probe in probes for m in (probe.routing or {}).values()]
    if not matrices:
        return []
    top, wide = max(m.max() for m in matrices), max(m.shape[1] for m in matrices)
    norm = PowerNorm(0.5, 0, top)  # an even spread, 1 / L each, can be told from 0
    pictures = []
    for number, (run, probe) in enumerate(zip(runs, probes, strict=True), 1):
        if not probe.routing:
            continue
        count = len(probe.routing)
        figure = Figure(figsize=(4.8, 0.7 + count * 0.85))
        rows = np.atleast_1d(figure.subplots(count, 1, sharex=True))
        for axes, (user, matrix) in zip(rows, probe.routing.items(), strict=True):
            axes.grid(visible=False)
            edges = np.arange(-matrix.shape[1], 1) + 0.5, np.arange(len(matrix) + 1) - 0.5
            mesh = axes.pcolormesh(*edges, matrix, cmap=SEQUENTIAL, norm=norm, ec="face")
            axes.set_title(f"user {short(user)}", fontsize=8, fontweight="normal", pad=2)
            axes.set(xlim=(0.5 - wide, 0.5), ylim=(len(matrix) - 0.5, -0.5))
            axes.yaxis.get_major_locator().set_params(integer=True, nbins=4, min_n_ticks=1)
        rows[-1].xaxis.get_major_locator().set_params(integer=True)
        rows[-1].set_xlabel("item of the history (0: the latest)")
        figure.supylabel("interest", fontsize=9)
        title = f"Routing: {short(run.label)}"
        figure.suptitle(title, x=0.02, ha="left", fontsize=10, fontweight="bold")
        label = "routing weight (square-root scale)"
        figure.colorbar(mesh, ax=list(rows), label=label, aspect=40)
        caption = (
            f"{run.label}: of which items of the history each interest is mixed, for an even "
            "sample of the validation users with the longest histories. Users and colours are the "
            "same for all runs on the same data."
        )
        pictures.append(Picture(f"routing-{number}", "Routing", caption, figure))
    return pictures


def _maps(runs: Sequence[Run], probes: Sequence[Probe]) -> list[Picture]:
    pictures = []
    for number, (run, probe) in enumerate(zip(runs, probes, strict=True), 1):
        if (item_map := probe.item_map) is None:
            continue
        first, second = (f"{100 * share:.1f} %" for share in item_map.explained)
        x, y = f"1st principal component ({first})", f"2nd principal component ({second})"
        figure, axes = _axes(f"Item map: {short(run.label)}", x, y)
        figure.set_size_inches(4.8, 4.4)
        axes.set_aspect("equal", adjustable="datalim")
        drawn: Drawn = []
        last = len(COLORS) - 1
        for interest in range(-1, min(int(item_map.interest.max()), last) + 1):
            one = np.minimum(item_map.interest, last) == interest
            color, size = (COLORS[interest], 2.5) if interest >= 0 else (OTHERS, 1.5)
            (dots,) = axes.plot(*item_map.points[one].T, "o", color=color, ms=size, mew=0)
            beyond = " and above" if interest == last < item_map.interest.max() else ""
            name = f"interest {interest}{beyond}" if interest >= 0 else "not retrieved"
            drawn.append((name, dots))
        _legend(figure, drawn, markerscale=2)
        caption = (
            f"{run.label}: item vectors of the best weights, and the share of their variance that "
            "each axis shows. The colour is the interest that most often retrieves the item (top "
            f"{RETRIEVED} of up to {diagnostics.USERS} validation users). An even sample of at "
            f"most {MAP_ITEMS:,} retrieved items and {MAP_OTHERS} others."
        )
        pictures.append(Picture(f"item-map-{number}", "Item map", caption, figure))
    return pictures


def _axes(title: str, x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure()
    axes = figure.subplots()
    axes.set_title(title)
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _legend_of_runs(figure: Figure, runs: Sequence[Run], drawn: Drawn) -> None:
    """The page's title names a run that is alone."""
    if len(runs) > 1:
        _legend(figure, drawn)


def _legend(figure: Figure, drawn: Drawn, **more: Any) -> None:
    """Below the axes, so that it covers nothing."""
    names = [f"\u200b{name}" for name, _ in drawn]  # matplotlib hides what begins with _
    columns = max(1, min(len(names), 60 // (max(map(len, names)) + 6)))
    artists = [artist for _, artist in drawn]
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + LINE * (rows - 1))  # the axes keep theirs
    figure.legend(artists, names, loc="outside lower left", ncols=columns, **more)


def short(name: str) -> str:
    """A name that fits a figure: its middle is left out where it is long."""
    half = (NAME - 1) // 2
    return name if len(name) <= NAME else f"{name[:half]}…{name[-half:]}"
