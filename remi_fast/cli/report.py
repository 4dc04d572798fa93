"""Compare runs on one HTML page that needs no network: metrics, settings, learning curves,
throughput, and what the models do with their interests, routing and negatives."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remi_fast.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, 8 at most")
    parser.add_argument(
        "--out", metavar="FILE", help="page to write (default: report.html in the first run folder)"
    )
    parser.add_argument("--png", metavar="DIR", help="folder for every figure as a PNG of 300 dpi")


def run(arguments: Any) -> int:
    """Read the runs, look into their models, write the page and the figures."""
    from remi_fast import extras, files

    extras.load("matplotlib", "report", "the page")
    from remi_fast.report import figures, page, style
    from remi_fast.report.probe import probe
    from remi_fast.report.runs import read

    paths = [Path(name) for name in arguments.runs]
    out = _out(arguments.out, paths[0])
    folder = _png_folder(arguments.png)
    runs = read(paths)
    max_history = max(run.config.model.max_history for run in runs)
    probes = [probe(run, max_history) for run in runs]
    pictures = figures.draw(runs, probes)
    text = page.html(runs, probes, pictures)
    for new in {out.parent} | ({folder} if folder else set()):
        with files.storing(new):
            new.mkdir(parents=True, exist_ok=True)
    page.write(text, out)
    for note in page.notes(runs, probes):
        print(note, file=sys.stderr)
    print(f"{out}: {len(pictures)} figures")
    if folder is not None:
        for picture in pictures:
            files.write_file(folder / f"{picture.name}.png", partial(style.png, picture.figure))
        print(f"{folder}: {len(pictures)} PNGs")
    return 0


def _out(name: str | None, first: Path) -> Path:
    if name is None:
        return first / "report.html"
    out = Path(name)
    if out.suffix != ".html" or out.is_dir():
        raise ConfigError(f"--out: got {name!r}, expected the name of an .html file")
    return out


def _png_folder(name: str | None) -> Path | None:
    folder = None if name is None else Path(name)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ConfigError(f"--png: got the file {name!r}, expected a folder")
    return folder
