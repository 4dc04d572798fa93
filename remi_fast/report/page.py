"""The page of a report: one HTML file that loads nothing."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from remi_fast import __version__, files
from remi_fast.report import style
from remi_fast.report.figures import Picture
from remi_fast.report.probe import COLLAPSED, Probe
from remi_fast.report.runs import Run, printable

NONE = "–"  # a cell without a value

CSS = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1e23;--faint:#5c636d;--line:#d8dce1;LIGHT}
@media(prefers-color-scheme:dark){
:root{--paper:#14171b;--ink:#e4e7eb;--faint:#a0a7b1;--line:#363c44;DARK}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:90rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif}
h1,h2,h3,p,td,th,li{overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}
h2{font-size:1.2rem;margin:2rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:.5rem 0}
p,figcaption,footer,summary{color:var(--faint);font-size:.875rem;max-width:45rem}
.grid{display:grid;gap:1.5rem 2rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}
figure{margin:0;min-width:0}
footer{margin-top:2rem}
svg{display:block;width:100%;height:auto}
.tables>div{max-width:100%}
.table{overflow-x:auto}
.tables{display:flex;flex-wrap:wrap;gap:1rem 3rem}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .9rem .25rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line);min-width:5.5rem;max-width:18rem}
tbody th{font-weight:normal;color:var(--faint)}
tbody th,thead th:first-child{position:sticky;left:0;background:var(--paper)}
.numbers td,.numbers thead th+th{text-align:right}
.numbers tbody th{white-space:nowrap}
.run::before{content:"";display:inline-block;width:.7em;height:.7em;margin-right:.4em;
border-radius:50%;background:var(--run)}
"""


def html(runs: Sequence[Run], probes: Sequence[Probe], pictures: Sequence[Picture]) -> str:
    """The page. Whatever the runs hold is escaped, and nothing is loaded or run."""
    title = "Report: " + ", ".join(run.label for run in runs)
    variables = {"LIGHT": style.variables(dark=False), "DARK": style.variables(dark=True)}
    css = CSS
    for name, text in variables.items():
        css = css.replace(name, text)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{css}</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>",
            *_list(notes(runs, probes)),
            *_tables(runs, probes),
            *_figures(pictures),
            f"<footer>Made by remi-fast {escape(__version__)}.</footer>\n</body>\n</html>\n",
        ]
    )


def write(page: str, path: Path) -> None:
    """Write the page, whole or not at all."""
    files.write_file(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def notes(runs: Sequence[Run], probes: Sequence[Probe]) -> list[str]:
    """What is missing, and why; what must not be compared."""
    found = []
    for run, probe in zip(runs, probes, strict=True):
        found += [f"{run.label}: {note}" for note in (*run.notes, probe.note) if note]
    if not _of_one_dataset(runs):
        found.append("The runs are of different data: their metrics cannot be compared.")
    return found


def _of_one_dataset(runs: Sequence[Run]) -> bool:
    return len({run.folder.data()[1] for run in runs}) == 1


def _list(items: Sequence[str]) -> list[str]:
    return ["<ul>", *(f"<li>{escape(item)}</li>" for item in items), "</ul>"] if items else []


def _tables(runs: Sequence[Run], probes: Sequence[Probe]) -> list[str]:
    settings = [run.settings() for run in runs]
    differ = {
        key: [each[key] for each in settings]
        for key in settings[0]
        if len({each[key] for each in settings}) > 1
    }
    compared = len(runs) > 1 and _of_one_dataset(runs)
    everything = {key: [each[key] for each in settings] for key in settings[0]}
    parts = ["<h2>Metrics</h2>", '<div class="tables">']
    for split, name in (("test", "Test"), ("valid", "Validation (best step)")):
        rows = [run.metrics(split) for run in runs]
        parts.append(f"<div><h3>{name}</h3>{_numbers(runs, rows, compared)}</div>")
    parts += ["</div>", "<p>Bold: the best of each row.</p>" if compared else ""]
    parts += ["<h2>Runs</h2>", _table(runs, _facts(runs, probes)), "<h2>Settings</h2>"]
    if len(runs) > 1:
        parts.append(_table(runs, differ) if differ else "<p>All settings are the same.</p>")
    all_settings = _table(runs, everything)
    return [*parts, f"<details><summary>All settings</summary>{all_settings}</details>"]


def _facts(runs: Sequence[Run], probes: Sequence[Probe]) -> dict[str, list[str]]:
    facts: dict[str, list[str]] = {}
    for run, probe in zip(runs, probes, strict=True):
        trained = (run.result or {}).get("train", {})
        largest = None if probe.largest is None else float(probe.largest.mean())
        row = {
            "state": run.state,
            "best step": f"{run.best[0]:,}" if run.best[1] else NONE,
            "training time (s)": _number(trained.get("seconds"), ",.1f"),
            "samples a second": _number(trained.get("samples_per_s"), ",.0f"),
            "interests in use": _number(probe.interests_used, ".2f"),
            "mean largest routing weight": _number(largest, ".3f"),
            f"collapsed (above {COLLAPSED})": _number(probe.collapsed, ".1%"),
            "processor": str(run.environment.get("gpu") or run.environment.get("cpu") or NONE),
            "remi-fast": str(run.environment.get("remi_fast", NONE)),
            "data": str(run.folder.data()[0]),
            "folder": str(run.folder.path),
        }
        for name, value in row.items():
            facts.setdefault(name, []).append(printable(value))
    return facts


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _numbers(runs: Sequence[Run], columns: Sequence[Mapping[str, float]], compared: bool) -> str:
    """A table of metrics, a column a run; compared: with the best of each row in bold."""
    names = list(dict.fromkeys(name for column in columns for name in column))
    if not names:
        return "<p>None yet.</p>"
    lines = []
    for name in names:
        values = [column.get(name) for column in columns]
        best = max(value for value in values if value is not None)
        cells = []
        for value in values:
            text = _number(value, ",.0f" if name == "users" else ".4f")
            bold = value == best and compared and name != "users"
            cells.append(f"<td>{f'<b>{text}</b>' if bold else text}</td>")
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return _wrapped(runs, lines, ' class="numbers"')


def _table(runs: Sequence[Run], rows: Mapping[str, Sequence[str]]) -> str:
    lines = [
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(value)}</td>" for value in values)
        + "</tr>"
        for name, values in rows.items()
    ]
    return _wrapped(runs, lines, "")


def _wrapped(runs: Sequence[Run], lines: Sequence[str], kind: str) -> str:
    head = "".join(
        f'<th scope="col" class="run" style="--run:var(--s{i})">{escape(run.label)}</th>'
        for i, run in enumerate(runs)
    )
    return (
        f'<div class="table"><table{kind}><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _figures(pictures: Sequence[Picture]) -> list[str]:
    parts = []
    for section, group in groupby(pictures, key=lambda picture: picture.section):
        parts.append(f'<h2>{escape(section)}</h2>\n<div class="grid">')
        for picture in group:
            label = picture.name.replace("-", " ")
            drawing = style.svg(picture.figure)
            drawing = drawing.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
            caption = escape(picture.caption)
            parts.append(
                f'<figure id="{picture.name}">{drawing}<figcaption>{caption}</figcaption></figure>'
            )
        parts.append("</div>")
    return parts
