"""How figures look: for a page in light or dark, and for papers. Needs matplotlib."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

INK = "#1b1e23"  # lines and text of a figure; in a page, the colour of its text
# Told apart also by colour-blind readers; beside each, its form on a dark page.
SERIES = {
    "#0072b2": "#5eb1ea",
    "#c44d00": "#ff9a52",
    "#00805d": "#35cfa0",
    "#a83279": "#f08cc8",
    "#b08d00": "#f3dc6b",
    "#3c9fc4": "#9adcf2",
    "#5a3fb5": "#cdbcff",
    "#3f4349": "#8d939c",
}
COLORS = list(SERIES)
DASHES = ["-"] * 4 + ["--"] * 4
OTHERS = "#9aa0a6"  # what has no colour of its own, light or dark
SEQUENTIAL = "viridis"  # of heat maps

_SETTINGS: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.figsize": (4.8, 3.3),
    "font.size": 9,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: searched, read aloud, in the page's own font
    "svg.hashsalt": "remi-fast",  # the same figure, the same bytes
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def styled() -> Iterator[None]:
    """The style of the report, whatever a matplotlibrc says."""
    with matplotlib.style.context(["default", _SETTINGS]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a browser has other fonts
        yield


def png(figure: Figure, path: Any) -> None:
    """Write a figure at 300 dots per inch, on white."""
    with styled():
        figure.savefig(path, format="png", dpi=300)


def svg(figure: Figure) -> str:
    """A figure as an <svg> for the body of a page, whose text colour and `variables` it takes.

    Nothing in it is loaded from elsewhere.
    """
    buffer = io.StringIO()
    with styled():
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text, count=2)  # HTML knows them
    text = re.sub(r'<g id="[\w.]+_\d+"', "<g", text)  # the same in every figure
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    adaptive = {INK: "currentColor"} | {color: f"var(--s{i})" for i, color in enumerate(COLORS)}
    for color, name in adaptive.items():
        text = re.sub(rf"(fill|stroke): {color}", rf"\1: {name}", text)
    return text


def variables(dark: bool) -> str:
    """The CSS variables that `svg` refers to."""
    values = SERIES.values() if dark else SERIES
    return "".join(f"--s{i}:{color};" for i, color in enumerate(values))
