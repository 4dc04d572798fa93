"""Trains many settings with many seeds, each run in a process of its own, and compares them.

`search` needs optuna and `picture` matplotlib (the extra `sweep`): they are imported where used.
"""

from remi_fast.sweep.runs import (
    Outcome,
    Settings,
    SweepFolder,
    Trial,
    mean_and_deviation,
    train_all,
)
from remi_fast.sweep.space import Range, Space, as_text, check, each_value, grid, most, space
from remi_fast.sweep.table import Row, cells, markdown, rows

__all__ = [
    "Outcome",
    "Range",
    "Row",
    "Settings",
    "Space",
    "SweepFolder",
    "Trial",
    "as_text",
    "cells",
    "check",
    "each_value",
    "grid",
    "markdown",
    "mean_and_deviation",
    "most",
    "rows",
    "space",
    "train_all",
]
