"""The lines of the tables, and what several tables use."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.reliability.forgery import forge

# Settings of a model that takes no time.
SMALL = (
    "--model.dim=8 --model.num_interests=2 --loss.num_negatives=8 --train.batch_size=8 "
    "--train.steps=2"
)


@dataclass(frozen=True)
class Case:
    """A command, or a call of the library, with bad input.

    do: the words of the command, or a function without arguments.
    files: written first, into the working folder of the command, which is a copy of the `world` of
        test_bad_input.py.
    given: what else is done to that folder.
    error: patterns that the message matches: where it went wrong, what was got and expected.
    kind: the exit status, or the type of the error.
    result: instead of an error, a check of what comes of it, as documented: a function of folder
        and printed text, or of what the call returned.
    """

    name: str
    do: str | Callable[[], Any]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    given: Callable[[Path], object] = lambda folder: None
    error: Mapping[str, str] = field(default_factory=dict)
    kind: Any = 1
    result: Callable[..., object] | None = None


def refused(name, do, where, got, expected, files=None, **more):
    """A case that ends with an error."""
    error = {"where": where, "got": got, "expected": expected}
    return Case(name, do, files or {}, error=error, **more)


def accepted(name, do, result, files=None, **more):
    """A case with a documented result."""
    return Case(name, do, files or {}, result=result, **more)


FINITE = "expected a finite number >= 0"


def invalid(name, do, where, got, expected):
    """A call that ends with a ValueError."""
    return refused(name, do, where, got, expected, kind=ValueError)


def wrong_type(name, do, where, got, expected):
    """A call with an argument of another type."""
    return refused(name, do, where, got, expected, kind=TypeError)


def outside(name, do, where, got, expected):
    """A call with an id or a row that is not there."""
    return refused(name, do, where, got, expected, kind=IndexError)


def without(*names):
    """`given` that these files and folders of the world are gone."""

    def given(folder):
        for path in map(folder.joinpath, names):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    return given


def nan_in_the_best_weights(folder):
    file = folder / "run/checkpoints/best/model.safetensors"
    tensors = load_file(file)
    tensors["table.weight"][5, 3] = float("nan")
    save_file(tensors, folder / "forged")
    forge(file, (folder / "forged").read_bytes())
    (folder / "forged").unlink()
