"""The command line `remi-fast`: one module a command, imported only when it runs."""

import logging
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from remi_fast import __version__
from remi_fast.errors import ConfigError, RemiFastError, nearest

COMMANDS = {
    "prepare": "make a dataset folder from raw interactions",
    "train": "train a model",
    "sweep": "train and compare many settings with several seeds",
    "evaluate": "recall, hit rate and ndcg of a trained model",
    "recommend": "recommend items for histories of known or new users",
    "export": "write a trained model as files for other programs",
    "report": "compare runs on one HTML page with figures",
    "bench": "benchmark training steps and their parts against alternatives",
    "info": "versions, hardware and backends",
}


class _Line(logging.Formatter):
    """A message of the log; a warning says that it is one, and no error."""

    def format(self, record: logging.LogRecord) -> str:
        warning = "warning: " if record.levelno >= logging.WARNING else ""
        return f"remi-fast: {warning}{super().format(record)}"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 1 (it failed), 2 (bad usage), 130 (interrupted)."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"remi-fast {__version__}")
        return 0
    command, rest = words[0], words[1:]
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(_Line())
    logging.basicConfig(handlers=[lines], level=logging.INFO)
    # Torch's idle OpenMP workers may spin only briefly: the C++ threads share their cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        return _run(command, rest)
    except ConfigError as error:
        print(f"remi-fast {command}: {error}", file=sys.stderr)
        return 2
    except (RemiFastError, OSError) as error:  # an OSError names the file itself
        print(f"remi-fast {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"remi-fast {command}: interrupted", file=sys.stderr)
        return 130


def _run(command: str, words: list[str]) -> int:
    if command not in COMMANDS:
        raise ConfigError(
            f"got {command!r}, which is no command, expected one of: {', '.join(COMMANDS)}"
            + nearest(command, COMMANDS)
        )
    module, arguments = understood(command, words)
    status: int = module.run(arguments)
    return status


def understood(command: str, words: list[str]) -> tuple[ModuleType, Any]:
    """The module that runs the command, or that part of it, and its arguments.

    Raises ConfigError for words that it does not know; exits after --help.
    """
    from jsonargparse import ArgumentParser

    from remi_fast.cli.help import HelpFormatter
    from remi_fast.config import parse

    name, module = command, import_module(f"remi_fast.cli.{command}")
    if hasattr(module, "part_of"):
        part, words = module.part_of(words)
        name, module = f"{command} {part}", import_module(f"remi_fast.cli.{command}.{part}")
    parser = ArgumentParser(
        prog=f"remi-fast {name}",
        description=module.__doc__,
        formatter_class=HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,  # a shortened key is a typo
    )
    module.add_arguments(parser)
    if hasattr(module, "arrange"):
        words = module.arrange(words, parser)
    return module, parse(parser, words)


def _overview() -> str:
    commands = "\n".join(f"  {name:<11}{text}" for name, text in COMMANDS.items())
    return (
        "usage: remi-fast COMMAND ...\n\n"
        "Fast, exact training of multi-interest retrieval models (REMI).\n\n"
        f"{commands}\n\n"
        "`remi-fast COMMAND --help` explains each; `remi-fast --version` prints the version.\n"
        "To start: remi-fast train demo --out runs/demo"
    )
