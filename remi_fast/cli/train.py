"""Train a model. DATA is a folder made by `remi-fast prepare`, a raw file, or `demo` (generated,
synthetic data). Settings: --preset < --config < dotted options; later ones override."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remi_fast.config import (
    DEMO,
    add_config_arguments,
    config_from_namespace,
    load_config,
    parse,
    preset_names,
    preset_path,
)
from remi_fast.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--out", required=True, metavar="RUN", help="run folder to make (or to --resume)"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    add_settings(parser)


def add_settings(parser: "ArgumentParser") -> None:
    """Declare DATA and the settings, which `sweep` has, too."""
    from jsonargparse import ActionConfigFile

    parser.add_argument(
        "data", nargs="?", metavar="DATA", help="prepared folder, raw file, or demo"
    )
    parser.add_argument("--preset", help=f"packaged settings: {', '.join(preset_names())}")
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of settings")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_config_arguments(parser)


def arrange(words: list[str], parser: "ArgumentParser") -> list[str]:
    """Put --preset first and --config next, so that precedence does not depend on the order.

    The demo data comes with a preset of its name. The parser has the arguments declared, for this
    command or one that takes its options.
    """
    presets: list[str] = []
    configs: list[str] = []
    others: list[str] = []
    waiting: list[str] | None = None
    for word in words:
        name, equals, value = word.partition("=")
        kind = {"--preset": presets, "--config": configs}.get(name)
        if waiting is not None:
            waiting.append(word)
            waiting = None
        elif kind is not None and equals:
            kind.append(_given(value, word))
        elif kind is not None:
            waiting = kind
        else:
            others.append(word)
    if waiting is not None:
        _given("", words[-1])
    if not presets and _is_demo(others, parser):
        presets = [DEMO]
    for config in configs:
        load_config(Path(config))  # its errors name the file
    files = [str(preset_path(preset)) for preset in presets] + configs
    arranged = [part for file in files for part in ("--config", file)] + others
    if "--resume" in others:
        _check_settings_of_resume(words, parse(parser, arranged))
    return arranged


def _given(value: str, word: str) -> str:
    if not value:
        raise ConfigError(f"{word}: got nothing, expected a value after it")
    return value


def _check_settings_of_resume(words: list[str], arguments: Any) -> None:
    """A run is continued as it was begun: with no settings, or, as in the same command, its own."""
    given = [
        word for word in words if re.match(r"--(preset|config|model|loss|optim|train)\b", word)
    ]
    if not given:
        return
    from remi_fast.training.run_folder import RunFolder

    if config_from_namespace(arguments) != RunFolder.open(Path(arguments.out)).config():
        raise ConfigError(
            f"--resume: got {given[0]!r}, expected no settings, or all that {arguments.out} was "
            "begun with: a run continues on its own data and settings"
        )


def _check_data_of_resume(data: str, out: str) -> None:
    """The run's own data may be named, as in the command that it was begun with."""
    from remi_fast.data.dataset import Dataset
    from remi_fast.training.run_folder import RunFolder

    run = RunFolder.open(Path(out))
    own, _ = run.data()
    if Path(data).resolve() == own.resolve():
        return
    expected = str(own)
    if own.is_relative_to(run.path) and own.is_dir():  # made from a file, of which it has the name
        (expected,) = Dataset.open(own, verify=False).manifest["summary"]["sources"]
        if Path(data).name == expected or (data == DEMO and expected.startswith(DEMO)):
            return
    raise ConfigError(
        f"--resume: got DATA {data!r}, expected none, or {expected!r}: "
        "a run continues on its own data and settings"
    )


def _is_demo(words: list[str], parser: "ArgumentParser") -> bool:
    """Whether DATA is the demo: not as the value of an option, such as `--out demo`."""
    flags = {word for each in parser._actions if each.nargs == 0 for word in each.option_strings}
    return any(
        word == DEMO and (not before.startswith("--") or "=" in before or before in flags)
        for before, word in pairwise(["", *words])
    )


def run(arguments: Any) -> int:
    """Train, then print the test metrics."""
    from remi_fast import api

    if arguments.resume:
        if arguments.data is not None:
            _check_data_of_resume(arguments.data, arguments.out)
        result = api.resume(arguments.out)
    else:
        if arguments.data is None:
            raise ConfigError("DATA: got nothing, expected a prepared folder, a raw file, or demo")
        result = api.train(arguments.data, arguments.out, config_from_namespace(arguments))
    if arguments.json:
        print(json.dumps(result))
    elif result.get("interrupted"):
        print(f"interrupted after step {result['step']}; " + _how_to_continue(arguments.out))
    else:
        _print_result(result, arguments.out)
    return 130 if result.get("interrupted") else 0


def _how_to_continue(out: str) -> str:
    from remi_fast.training.run_folder import RunFolder

    if not RunFolder(Path(out)).last.exists():
        return "train.checkpoints kept nothing to continue from"
    return f"continue with: remi-fast train --out {out} --resume"


def _print_result(result: dict[str, Any], out: str) -> None:
    from remi_fast.cli.tables import metrics_table

    train = result["train"]
    print(
        f"{train['steps']} steps in {train['seconds']:.1f} s of training "
        f"({train['samples_per_s']:,.0f} samples/s), best at step {result['best_step']}"
    )
    metrics_table({"valid": result["valid"], "test": result["test"]})
    print(f"run folder: {out}")
