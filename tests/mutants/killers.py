"""The files bugs are planted in, and the tests that find them: those that are named often."""

from .runner import Mutant

TRITON = "kernels/ihn_loss_triton.py"
LAUNCH = "kernels/ihn_loss_launch.py"
OP = "kernels/ihn_loss_op.py"
PHILOX = "kernels/philox_triton.py"
RUNTIME = "kernels/runtime.py"
NEGATIVES = "kernels/negatives.py"

IHN = "tests/kernels/test_ihn_loss.py::test_"
MULTI = "tests/kernels/test_multi_interest_ihn_loss.py::test_"
FULL = "tests/kernels/test_full_catalogue_ihn_loss.py::test_"
OPERATORS = "tests/kernels/test_ihn_loss_op.py::test_"
MEMORY = "tests/kernels/test_memory_safety.py::test_"
DRAWS = "tests/kernels/test_negatives.py::test_"


def rows(beta=1.0, features="", scale=1.0):
    return f"{IHN}matches_float64_autograd[triton-{features}-{scale}-{beta}]"


def table(shape="18-3-5-7"):
    return f"{MULTI}matches_float64_autograd[False-{shape}-triton]"


def falling(beta=1.0):
    return f"{IHN}the_largest_score_comes_first_or_last[-1-{beta}]"


def rising(beta=1.0):
    return f"{IHN}the_largest_score_comes_first_or_last[1-{beta}]"


PARTS = f"{IHN}more_parts_than_are_added_at_a_time"
WIDE = f"{IHN}float32_error_budget_of_many_dimensions[200]"
SMALL = f"{IHN}small_losses_keep_their_digits"
EMPTY_ROWS = f"{IHN}rows_without_negatives_lose_nothing[1.0-triton]"
EMPTY_ROWS_0 = f"{IHN}rows_without_negatives_lose_nothing[0.0-triton]"
ROUNDING = f"{IHN}rounding_is_to_nearest_and_ties_go_to_even"
HALF_ROUNDING = f"{IHN}half_precision_gradients_are_rounded_to_nearest"
PRECISION = f"{IHN}products_are_as_exact_as_torch_is_asked_for"
GUARDED = f"{MEMORY}nothing_is_touched_beyond_a_tensor[loss]"
PROPOSAL_SHIFT = f"{IHN}improbable_negatives_count_as_their_proposal_says"
CATALOGUE = f"{FULL}matches_the_ideal_distribution[5-70-1.0-triton]"
TIES = f"{MULTI}ties_go_to_the_first_interest_and_nan_is_not_passed_over"
PROPOSAL = f"{MULTI}proposal[triton]"
HITS = f"{MULTI}hits_are_masked_by_id[triton]"
ONE_PART = f"{MULTI}one_of_the_two_results_is_used"


def drawn(seed=0, step=0):
    return f"{MULTI}drawn_negatives_are_those_of_every_backend[{seed}-{step}-triton]"


def outside(where, bad):
    return f"{MULTI}ids_outside_the_table[{where}-{bad}]"


def far(source, name, dimension):
    return f"{MEMORY}offsets_past_two_to_the_31[{source}-{name}-{dimension}]"


def layout(source, layout):
    return f"{MULTI}non_contiguous_inputs[{source}-{layout}]"


def group(file, *bugs, by_signal=False):
    """Mutants of a file from their names, tests, original and planted texts."""
    return [Mutant(name, file, old, new, (test,), by_signal) for name, test, old, new in bugs]
