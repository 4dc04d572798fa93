"""All planted bugs, and the control."""

from . import (
    attention,
    attention_query,
    backward,
    benchmark,
    capsules,
    data,
    deferred_adam,
    dense_adam,
    device_batches,
    device_step,
    eager,
    evaluation,
    forward,
    host,
    native,
    retrieval,
    schedule,
    sweep,
    training,
)
from .killers import TRITON
from .runner import Mutant

FILES = (
    forward,
    backward,
    benchmark,
    host,
    deferred_adam,
    dense_adam,
    device_batches,
    device_step,
    capsules,
    attention,
    attention_query,
    data,
    training,
    sweep,
    eager,
    evaluation,
    native,
    retrieval,
    schedule,
)
MUTANTS = [mutant for file in FILES for mutant in file.MUTANTS]


def nothing(mutants):
    """The control: every test that finds one of these passes where nothing is planted."""
    tests = tuple(sorted({test for mutant in mutants for test in mutant.tests}))
    return Mutant("nothing planted", TRITON, "import triton\n", "import triton\n", tests)
