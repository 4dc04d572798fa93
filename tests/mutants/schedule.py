"""Bugs in learning-rate schedules, and in keeping their rates."""

from .killers import group

SCHEDULE = "tests/training/test_schedule.py::test_"
WARM_UP = f"{SCHEDULE}a_warm_up_comes_first[cosine]"
EDGES = f"{SCHEDULE}the_edges_of_a_schedule[cosine]"
TORCH = f"{SCHEDULE}schedules_are_torch_s"
PLAIN = f"{SCHEDULE}steps_are_those_of_plain_pytorch[4]"
DEVICE = f"{SCHEDULE}steps_on_a_device"
KEPT = f"{SCHEDULE}rates_of_many_values_are_kept_one_a_step"
RESUMES = f"{SCHEDULE}a_run_resumes_with_the_same_bits[one a step]"
MISFITS = f"{SCHEDULE}rates_that_do_not_fit"

CONFIG = group(
    "remi_fast/config.py",
    ("the first step has no rate", WARM_UP,
     "self.lr * ((step + 1) / self.warmup_steps)",
     "self.lr * (step / self.warmup_steps)"),
    ("the warm-up is a step too long", WARM_UP,
     "if step < self.warmup_steps:",
     "if step <= self.warmup_steps:"),
    ("the fall begins with the warm-up", WARM_UP,
     "(step - self.warmup_steps) / max(",
     "step / max("),
    ("the fall ends late", WARM_UP,
     "max(1, steps - self.warmup_steps)",
     "max(1, steps)"),
    ("after the end it rises again", EDGES,
     "min(1.0, (step",
     "max(0.0, (step"),
    ("a cosine is a line", TORCH,
     'if self.schedule == "linear" else',
     "if True else"),
    ("a whole cosine", TORCH,
     "math.cos(math.pi * done)",
     "math.cos(2 * math.pi * done)"),
)  # fmt: skip

STEP = [
    *group("remi_fast/training/step.py",
           ("the extractor's rate is constant", PLAIN,
            "for optimizer in (self.table_optimizer, self.dense_optimizer):",
            "for optimizer in (self.table_optimizer,):"),
           ("the table's rate is constant", PLAIN,
            "for optimizer in (self.table_optimizer, self.dense_optimizer):",
            "for optimizer in (self.dense_optimizer,):"),
           ("the rate of the step before", PLAIN,
            '.param_groups[0]["lr"] = self.rate(step)',
            '.param_groups[0]["lr"] = self.rate(max(0, step - 1))')),
    *group("remi_fast/training/device_step.py",
           ("all steps of a replay have the first one's rate", DEVICE,
            "[self._made_of.rate(n) for n in range(step, step + count)]",
            "[self._made_of.rate(step)] * count")),
]  # fmt: skip

KEEPING = [
    *group("kernels/deferred_adam_state.py",
           ("rates of many values are runs", KEPT,
            "if len(starts) > _MOST_RUNS:",
            "if len(starts) > 10**9:"),
           ("corrections are 1 too early", KEPT,
            "_ONE = 40",
            "_ONE = 20"),
           ("rates are not restored", KEPT,
            "        self._lr[corrected + 1 : step + 1] = lrs[corrected:]\n",
            "")),
    *group("remi_fast/optim.py",
           ("rates of fewer steps", f"{MISFITS}[rates0]",
            " and rates.shape == (step,)",
            ""),
           ("rates of half the digits", f"{MISFITS}[rates1]",
            "valid = rates.dtype == torch.float64 and ",
            "valid = "),
           ("rates below 0", f"{MISFITS}[rates2]",
            "(rates >= 0) & (rates < math.inf)",
            "rates < math.inf"),
           ("rates of NaN", f"{MISFITS}[rates3]",
            "((rates >= 0) & (rates < math.inf)).all()",
            "(~((rates < 0) | (rates == math.inf))).all()"),
           ("any rate is announced", f"{SCHEDULE}what_is_announced_is_a_rate",
            '            _check_rate("rates", rate)\n',
            "            pass\n")),
    *group("remi_fast/training/checkpoint.py",
           ("rates are not read back", RESUMES,
            "numbers = shards.read(tensors, RATES) | dict(numbers)",
            "numbers = dict(numbers)")),
    *group("remi_fast/training/shards.py",
           ("all tensors are read for one", f"{SCHEDULE}one_tensor_is_read",
            "if only in (None, piece.tensor):",
            "if True:")),
]  # fmt: skip

MUTANTS = [*CONFIG, *STEP, *KEEPING]
