"""All planted bugs, and the control."""

from . import backward, deferred_adam, forward, host
from .killers import TRITON
from .runner import Mutant

MUTANTS = [*forward.MUTANTS, *backward.MUTANTS, *host.MUTANTS, *deferred_adam.MUTANTS]


def nothing(mutants):
    """The control: every test that finds one of these passes where nothing is planted."""
    tests = tuple(sorted({test for mutant in mutants for test in mutant.tests}))
    return Mutant("nothing planted", TRITON, "import triton\n", "import triton\n", tests)
