"""How `--help` looks."""

import re
from argparse import Action
from collections.abc import Iterable
from typing import Any

from jsonargparse import DefaultHelpFormatter

_NOTHING = re.compile(r" \(default: (?:null|False|\[\])\)$|, default: null(?=\)$)")


class HelpFormatter(DefaultHelpFormatter):
    """jsonargparse's, without the defaults that say nothing: of flags, and where there is none; and
    with a usage that has only what is required: the options are explained below it."""

    def _format_usage(
        self, usage: str | None, actions: Iterable[Action], groups: Any, prefix: str | None
    ) -> str:
        required = [each for each in actions if each.required or not each.option_strings]
        shown = super()._format_usage(usage, required, [], prefix)
        return shown.replace(self._prog, f"{self._prog} [options]", 1)

    def _expand_help(self, action: Action) -> str:
        return _NOTHING.sub("", super()._expand_help(action))
