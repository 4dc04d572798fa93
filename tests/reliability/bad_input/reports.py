"""What `report` is given."""

import shutil

from .case import accepted, refused, without


def copies(folder):
    for number in range(8):
        shutil.copytree(folder / "run", folder / f"copy{number}")


def text_in(name, text):
    """`given` that a file of the run holds this."""

    def given(folder):
        (folder / "run" / name).write_text(text)

    return given


def damaged(name, text):
    """A result.json that is refused."""
    result = "run/result.json: "
    return refused(
        name, "report run", result, "got", "expected", given=text_in("result.json", text)
    )


CASES = [
    refused("a report of nothing", "report", "runs", "required", "arguments", kind=2),
    refused(
        "a report of no run", "report none", "none: ", "no such folder", "made by `remi-fast train`"
    ),
    refused("a report of a dataset", "report run data", "data: ", "not a run folder", "expected a"),
    refused("a run twice", "report run ./run", "RUN: ", "got './run' twice", "run once", kind=2),
    refused(
        "nine runs",
        "report run copy0 copy1 copy2 copy3 copy4 copy5 copy6 copy7",
        "RUN: ",
        "got 9 runs",
        "expected at most 8",
        given=copies,
        kind=2,
    ),
    refused(
        "a report over a configuration",
        "report run --out run/config.yaml",
        "--out: ",
        "got 'run/config.yaml'",
        "expected the name of an .html file",
        kind=2,
    ),
    refused(
        "figures in a file",
        "report run --png raw.parquet",
        "--png: ",
        "got the file 'raw.parquet'",
        "expected a folder",
        kind=2,
    ),
    refused(
        "a report of a run with a setting changed",
        "report run",
        "run/config.yaml: ",
        "got ",
        "expected",
        given=lambda folder: (folder / "run/config.yaml").write_text("loss: {beta: 0}\n"),
    ),
    refused(
        "a report of a run without its data.json",
        "report run",
        "run/data.json: ",
        "missing",
        "expected",
        given=without("run/data.json"),
    ),
    refused(
        "an env.json of NUL bytes",
        "report run",
        "run/env.json: ",
        "not valid",
        "JSON",
        given=text_in("env.json", "\0\0"),
    ),
    damaged("a result that is a list", "[]"),
    damaged("a result of nothing", "{}"),
    damaged(
        "a result of words",
        '{"best_step": 1, "test_step": 1, "valid": {"recall@50": "x"}, "test": {}, "train": {}}',
    ),
    damaged(
        "a result of NaN",
        '{"best_step": NaN, "test_step": 1, "valid": {}, "test": {}, "train": '
        '{"steps": 1, "seconds": 1, "samples_per_s": 1}}',
    ),
    accepted(
        "a report of a run without a log",
        "report run --out deep/er/page.html",
        lambda folder, out: "<figure" in (folder / "deep/er/page.html").read_text(),
        given=without("run/metrics.jsonl"),
    ),
]
