"""Benchmark training on this machine, part by part, against other ways to compute the same.

A module a part: `add_arguments`, `check` (before anything is measured), `cases`, `show`, `run`.
"""

from argparse import ArgumentParser
from itertools import pairwise

from remi_fast.cli.bench.common import module_of
from remi_fast.errors import ConfigError, nearest

DEFAULT = "step"
PARTS = {
    "step": "whole training steps, and what REMI costs over plain sampled softmax",
    "loss": "the loss, forward and backward",
    "loader": "training batches",
    "update": "the update of the item table",
    "eval": "exact search over the catalogue",
    "all": "all parts, into one file",
}


def part_of(words: list[str]) -> tuple[str, list[str]]:
    """The part that is asked for, and the words after it; exits after --help.

    Raises ConfigError for a part that there is not, and for an option that this part has not.
    """
    part, options = DEFAULT, words
    if words and words[0] in ("-h", "--help"):
        print(_overview())
        raise SystemExit(0)
    if words and not words[0].startswith("-"):
        part, *options = words
    elif any(word in PARTS and before != "--peers" for before, word in pairwise(words)):
        raise ConfigError("got the part after options, expected it first: remi-fast bench PART ...")
    if part not in PARTS:
        raise ConfigError(
            f"got {part!r}, which is no part, expected one of: {', '.join(PARTS)}"
            + nearest(part, PARTS)
        )
    _check_options(part, options)
    return part, options


def options_of(part: str) -> list[str]:
    """Such as --batch-size, without --help."""
    parser = ArgumentParser(add_help=False)
    module_of(part).add_arguments(parser)
    return [option for action in parser._actions for option in action.option_strings]


def _check_options(part: str, words: list[str]) -> None:
    known = options_of(part)
    for word in words:
        option = word.partition("=")[0]
        if not option.startswith("--") or option in (*known, "--help"):
            continue
        others = [each for each in PARTS if option in options_of(each)]
        if others:
            raise ConfigError(
                f"{option}: `bench {part}` has no such option, expected it after "
                f"{' or '.join(f'`bench {each}`' for each in others)}"
            )
        raise ConfigError(f"{option}: `bench {part}` has no such option" + nearest(option, known))


def _overview() -> str:
    parts = "\n".join(f"  {name:<9}{text}" for name, text in PARTS.items())
    return (
        "usage: remi-fast bench [PART] [OPTIONS]\n\n"
        "Benchmark training on this machine, part by part, against other ways to compute the\n"
        "same: results are checked first, then all take turns in one run, on generated data.\n\n"
        f"{parts}\n\n"
        f"Default part: {DEFAULT}. `remi-fast bench PART --help` lists its options.\n"
        "A part takes about a minute, all of them a few; docs/benchmark.md has the details."
    )
