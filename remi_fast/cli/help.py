"""How `--help` looks."""

import re
from argparse import Action

from jsonargparse import DefaultHelpFormatter

_NOTHING = re.compile(r" \(default: (?:null|False|\[\])\)$|, default: null(?=\)$)")


class HelpFormatter(DefaultHelpFormatter):
    """jsonargparse's, without the defaults that say nothing: of flags, and where there is none."""

    def _expand_help(self, action: Action) -> str:
        return _NOTHING.sub("", super()._expand_help(action))
