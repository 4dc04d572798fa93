"""Bugs in sweeps: what they try, their runs and tables."""

from .killers import group

SPACE = "tests/sweep/test_space.py::test_"
SWEEP = "tests/sweep/test_sweep.py::test_"
GOES_ON = f"{SWEEP}a_run_goes_on_from_its_checkpoint_or_is_begun_again"
TABLE = f"{SWEEP}a_table_in_markdown"


def scale(line, middle):
    return f"{SPACE}a_range_is_on_a_log_scale_where_its_ends_are_far_apart[{line}-{middle}]"


TRYING = group(
    "remi_fast/sweep/space.py",
    ("ends near one another on a log scale", scale("loss.beta=2..10", "6"),
     "self.low > 0 and self.high >= 10 * self.low",
     "self.low > 0"),
    ("ends far apart on a linear scale", scale("loss.beta=1..10", "3.162"),
     "self.high >= 10 * self.low",
     "self.high > 10 * self.low"),
    ("the upper end is left out", scale("loss.beta=0..10", "5"),
     "i / (_POINTS - 1)",
     "i / _POINTS"),
    ("rounded out of the range", f"{SPACE}values_have_four_digits_and_stay_in_the_range",
     'min(max(float(f"{value:.4g}"), self.low), self.high)',
     'float(f"{value:.4g}")'),
    ("half a number", f"{SPACE}a_range_of_a_whole_number_has_whole_numbers_only",
     "whole=kinds.get(key) is int",
     "whole=False"),
    ("the upper end is not looked at",
     f"{SPACE}every_value_is_seen_and_of_a_range_its_ends",
     "in (_ends(values) if",
     "in (_ends(values)[:1] if"),
    ("the first are the sample", f"{SPACE}a_sample_of_a_range_fills_it",
     "permute(range(sample), total, seed=0, step=0)",
     "range(sample)"),
    ("values of another key", f"{SPACE}a_sample_is_of_different_combinations_and_repeats",
     "for each in reversed(values):",
     "for each in values:"),
)  # fmt: skip

RUNNING = group(
    "remi_fast/sweep/runs.py",
    ("nothing to go on from, for ever", GOES_ON,
     "        shutil.rmtree(folder)\n    return False",
     "    return True"),
    ("begun again in spite of a checkpoint", GOES_ON,
     "RunFolder(folder).last).exists()",
     "RunFolder(folder).last).is_file()"),
    ("removed under another process", GOES_ON,
     "if mine is False:",
     "if mine is None:"),
    ("trained twice", f"{SWEEP}folders_are_told_apart",
     "return list(dict.fromkeys(trials))",
     "return trials"),
    ("folders of cut names are one", f"{SWEEP}folders_are_told_apart",
     "-{digest}-seed{seed}",
     "-seed{seed}"),
    ("jobs do not share the cores", f"{SWEEP}jobs_share_the_cores[0-settings0-expected0]",
     "len(os.sched_getaffinity(0)) // jobs",
     "len(os.sched_getaffinity(0))"),
    ("a swept number of threads is lost", f"{SWEEP}jobs_share_the_cores[0-settings2-expected2]",
     '[("train.threads", str(threads)), *trial.settings]',
     '[*trial.settings, ("train.threads", str(threads))]'),
    ("two keys of a name", f"{SWEEP}names_are_short_where_they_are_ones_own",
     "name if last.count(name) == 1 else key",
     "name"),
    ("deviation of the population", TABLE,
     "statistics.stdev(values)",
     "statistics.pstdev(values)"),
)  # fmt: skip

TELLING = group(
    "remi_fast/sweep/table.py",
    ("chosen by the test", TABLE,
     'self.values("valid", SELECTION_METRIC)',
     'self.values("test", SELECTION_METRIC)'),
    ("the worst first", TABLE,
     "reverse=True",
     "reverse=False"),
)  # fmt: skip

COMMAND = group(
    "remi_fast/cli/train.py",
    ("flags of train alone", f"{SWEEP}a_sweep_of_the_demo_has_its_preset[--ablation demo-3000]",
     "for each in parser._actions if each.nargs == 0",
     'for each in parser._actions if each.dest in ("resume", "json")'),
)  # fmt: skip

MUTANTS = [*TRYING, *RUNNING, *TELLING, *COMMAND]
