"""Pages made from the code and from what was measured, so that they cannot go stale."""

import dataclasses
import json
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import docstring_parser
import yaml
from jsonargparse import ArgumentParser

from remi_fast import config
from remi_fast.cli import COMMANDS
from remi_fast.errors import ConfigError

ROOT = Path(__file__).parents[2]
_TYPES = {int: "whole number", float: "number", bool: "true or false"}

_CONFIGURATION = """\
# Configuration

Every setting of a training run, generated from `remi_fast/config.py`. Each of these overrides the
one before: the defaults (the published settings of REMI), `--preset NAME`, `--config`, options:

    remi-fast train data --out runs/one --preset gowalla --config mine.yaml --loss.beta=0.5

`mine.yaml` has sections of keys, such as `loss: {beta: 1}`. In Python:

    from remi_fast.config import Config, LossConfig

    config = Config(loss=LossConfig(beta=0.5))

An unknown key is an error that names the nearest one. A run saves all settings in its
`config.yaml`, which is itself a valid `--config`.
"""


def configuration() -> str:
    """The reference of every configuration key, and the presets."""
    parts = [_CONFIGURATION]
    for section in dataclasses.fields(config.Config):
        parts.append(_section(section.name, section.type))
    parts.append(
        "## Presets\n\n`remi-fast train DATA --preset NAME`. All other keys keep their defaults.\n"
    )
    parts += [_preset(name) for name in config.preset_names()]
    return "\n".join(parts)


def _section(name: str, kind: Any) -> str:
    doc = docstring_parser.parse(kind.__doc__)
    meaning = {each.arg_name: " ".join((each.description or "").split()) for each in doc.params}
    parts = [f"## {name}\n", f"{doc.description}\n"]
    for key in dataclasses.fields(kind):
        parts += [
            f"### {name}.{key.name}\n",
            f"`{_plain(key.default)}` by default, {_allowed(kind, key)}.\n",
            f"{meaning[key.name]}\n",
        ]
    return "\n".join(parts)


def _allowed(kind: Any, key: dataclasses.Field[Any]) -> str:
    """What a key may be: of numbers what the error on a wrong one says."""
    if key.type not in _TYPES:
        return "one of " + ", ".join(f"`{each}`" for each in get_args(key.type))
    if key.type is bool:
        return "`true` or `false`"
    try:
        kind(**{key.name: -1})
    except ConfigError as error:
        expected = str(error).partition("expected a ")[2].removeprefix("finite ")
        for number in (2**31, 2**31 - 1):
            expected = expected.replace(str(number), "2^31" if number == 2**31 else "2^31 - 1")
        return f"a {_TYPES[key.type]}{expected.removeprefix('number').replace('>=', 'of at least')}"
    raise AssertionError(f"{key.name}: -1 was taken; say what is allowed")


def _plain(value: Any) -> str:
    return json.dumps(value).strip('"')


def _preset(preset: str) -> str:
    text = config.preset_path(preset).read_text()
    comment = " ".join(re.findall(r"^# ?(.*)$", text, re.MULTILINE))
    comment = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", comment)
    default = config.as_dict(config.Config())
    rows = [
        f"| [{name}.{key}](#{name}{key}) | {_plain(value)} | {_plain(default[name][key])} |"
        for name, keys in yaml.safe_load(text).items()
        for key, value in keys.items()
        if value != default[name][key]
    ]
    table = "\n".join(["| key | preset | default |", "|---|---|---|", *rows])
    return f"### {preset}\n\n{comment}\n\n{table if rows else 'The defaults.'}\n"


_COMMANDS = """\
# Commands

What `remi-fast COMMAND --help` says, generated from `remi_fast/cli/`. The exit status is 0 on
success, 1 on failure, 2 for wrong options or settings, and 130 after Ctrl-C.
"""


def commands() -> str:
    """The options of every command, but for the configuration keys."""
    return "\n".join([_COMMANDS, *map(_command, COMMANDS)])


def _command(name: str) -> str:
    module = import_module(f"remi_fast.cli.{name}")
    if not hasattr(module, "PARTS"):
        return f"## {name}\n\n{_options(module)}"
    parts = [f"`remi-fast {name}` alone is `remi-fast {name} {module.DEFAULT}`.\n"]
    parts += [
        f"### {name} {part}\n\n{_options(import_module(f'{module.__name__}.{part}'))}"
        for part in module.PARTS
    ]
    return f"## {name}\n\n{_about(module)}\n\n" + "\n".join(parts)


def _about(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n\n")[0].replace("*", "\\*")


def _options(module: ModuleType) -> str:
    parser = ArgumentParser(add_help=False)
    module.add_arguments(parser)
    theirs = {f"--{section.name}" for section in dataclasses.fields(config.Config)}
    theirs.add("--print_config")  # jsonargparse's own
    rows, keys = [], ""
    for action in parser._actions:
        option = action.option_strings[0] if action.option_strings else action.dest.upper()
        if "." in option:
            keys = "\nAlso every key of the [Configuration](../remi_fast/config.py) as an option.\n"
        elif option not in theirs:
            rows.append(f"| `{_usage(option, action)}` | {_help(action)} |")
    table = "\n".join(["| | |", "|---|---|", *rows]) + "\n" if rows else ""
    return f"{_about(module)}\n\n{table}{keys}"


def _usage(option: str, action: Any) -> str:
    values = "" if action.nargs == 0 or not action.option_strings else " " + _value(action)
    return option + values + (" ..." if action.nargs == "+" else "")


def _value(action: Any) -> str:
    if action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def _help(action: Any) -> str:
    default = action.default if isinstance(action.default, list) else [action.default]
    shown = action.nargs != 0 and default not in ([], [None])
    end = f" (default: {' '.join(map(str, default))})" if shown else ""
    return (action.help or "").replace("|", "\\|") + end


def benchmarks() -> str:
    """The README's results, and the files they are from."""
    readme = (ROOT / "README.md").read_text()
    results = _part(readme, "Results").replace("(bench/results)", "(#files)")
    text = f"# Benchmarks\n\n## Results\n\n{results}\n## Reproduce\n\n{_part(readme, 'Reproduce')}"
    rows = [_file(path) for path in sorted((ROOT / "bench/results").glob("*.json"))]
    return re.sub(r"(?<=\]\()(?!\w+:|#)", "../", text) + "\n" + _FILES + "\n".join(rows) + "\n"


_FILES = """## Files

Every file names the commit (`-dirty`: with uncommitted changes), the versions, the hardware and the
command it was measured with.

| file | commit | torch | hardware | command |
|---|---|---|---|---|
"""


def _part(text: str, title: str) -> str:
    """The text under a heading of the second level."""
    found = re.search(rf"^## {title}\n+(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def _file(path: Path) -> str:
    record = json.loads(path.read_text())
    there = record["environment"]
    hardware = there["gpu"] or f"{there['cpu']}, {there['cores']} cores"
    command = " ".join(there["command"])
    return (
        f"| [{path.stem}](../bench/results/{path.name}) | {record['commit']} | {there['torch']} "
        f"| {hardware} | `{command[:60]}{'...' if len(command) > 60 else ''}` |"
    )
