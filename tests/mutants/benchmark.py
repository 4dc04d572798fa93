"""Bugs in `remi-fast bench`: a benchmark that is wrong is worse than none."""

from .killers import group

STEPS = "tests/benchmark/test_steps.py::test_"

MUTANTS = [
    *group(
        "remi_fast/benchmark/turns.py",
        ("the warm-up counts", f"{STEPS}turns_go_round_and_the_first_round_is_left_out",
         "if round_number > 0:",
         "if round_number >= 0:"),
        ("contestants do not take turns", f"{STEPS}turns_go_round_and_the_first_round_is_left_out",
         "    for round_number in range(rounds + 1):\n        for name, run in runs.items():",
         "    for name, run in runs.items():\n        for round_number in range(rounds + 1):"),
        ("a ratio upside down", f"{STEPS}turns_go_round_and_the_first_round_is_left_out",
         "value / base for",
         "base / value for"),
    ),
    *group(
        "remi_fast/benchmark/steps.py",
        ("plain by REMI", f"{STEPS}the_cost_of_remi_is_by_round",
         "zip(table[REMI][\"rounds\"], table[PLAIN][\"rounds\"]",
         "zip(table[PLAIN][\"rounds\"], table[REMI][\"rounds\"]"),
        ("a loss that differs is let through",
         f"{STEPS}contestants_that_differ_are_refused[loss]",
         "abs(mine - theirs.item()) > 1e-4 * abs(mine) or ",
         ""),
        ("an update that differs is let through",
         f"{STEPS}contestants_that_differ_are_refused[update]",
         " or difference > 1e-2 * config.optim.lr",
         ""),
        ("seconds are taken for milliseconds", f"{STEPS}everyone_takes_part",
         "round(1e3 * batch_size",
         "round(batch_size"),
    ),
    *group(
        "remi_fast/benchmark/phases.py",
        ("the warm-up is part of the parts",
         f"{STEPS}parts_add_up_and_training_is_not_disturbed",
         "            taken.clear()\n",
         ""),
    ),
]  # fmt: skip
