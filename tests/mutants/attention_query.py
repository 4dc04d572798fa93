"""Bugs in the choice of ComiRec-SA's interest and in RR: in the Triton kernels, and around them."""

from .killers import MEMORY, group

KERNELS = "kernels/self_attentive_triton.py"
QUERY = "tests/kernels/test_self_attentive_query.py::test_"
DEVICE = "tests/training/test_device_step.py::test_"

PACKED = f"{QUERY}matches_float64_autograd[shape1-triton]"  # three users a tile
LONG = f"{QUERY}matches_float64_autograd[shape2-triton]"  # three tiles a user
PADDED = f"{QUERY}padding_counts_as_a_weight_of_zero_and_an_empty_history_is_zero[6]"
GUARDED = f"{MEMORY}nothing_is_touched_beyond_a_tensor[query]"
AUTOCAST = f"{QUERY}autocast_multiplies_in_its_dtype_and_leaves_that_of_the_history"


def ties(bad):
    return f"{QUERY}ties_go_to_the_first_interest_and_nan_is_not_passed_over[{bad}-3]"


CHOICE = group(
    KERNELS,
    ("NaN is passed over", ties("nan"),
     "wins = tl.where(has_nan[:, None], is_nan, scores == largest[:, None])",
     "wins = scores == largest[:, None]"),
    ("the last NaN is taken", ties("two nan"),
     "return tl.min(tl.where(wins, columns, scores.shape[1]), axis=1)",
     "return tl.max(tl.where(wins, columns, 0), axis=1)"),
    ("NaN hides the others of other users", ties("all nan"),
     "tl.max(is_nan.to(tl.int32), axis=1) > 0",
     "tl.max(is_nan.to(tl.int32), axis=1) > 1"),
    ("the interest farthest from the target", PACKED,
     "largest = tl.max(tl.where(is_nan, -_INF, scores), axis=1)",
     "largest = tl.min(tl.where(is_nan, _INF, scores), axis=1)"),
    ("interests that are not there are chosen", f"{QUERY}scores_below_zero[-1]",
     "tl.where(column_real, tl.sum(mixed.to(SUM) * target, axis=1), -_INF)",
     "tl.where(column_real, tl.sum(mixed.to(SUM) * target, axis=1), 0.0)"),
    ("what is not stored is compared", f"{QUERY}what_is_stored_is_compared",
     "    mixed = rounded(mixed, query_ptr.dtype.element_ty)  # what is stored is compared\n",
     "    scored = mixed\n    mixed = rounded(mixed, query_ptr.dtype.element_ty)\n"
     "    mixed = mixed + (scored - mixed.to(SUM))\n"),
    ("every user has the first target", PACKED,
     "_load_rows(target_ptr, column_users * D, column_real, dims, D, SUM)",
     "_load_rows(target_ptr, column_users * 0, column_real, dims, D, SUM)"),
    ("a choice past the last user", GUARDED,
     "present = (slots < USERS) & (users < B)",
     "present = slots < USERS"),
    ("variances of interests that are not there", GUARDED,
     "tl.store(variance_ptr + column_rows, variance, mask=column_real)",
     "tl.store(variance_ptr + column_rows, variance)"),
)  # fmt: skip

REGULARIZER = group(
    KERNELS,
    ("interests that are not there have a variance", PACKED.replace("shape1", "shape4"),
     "variance = tl.where(column_real, variance, 0.0)",
     "variance = tl.where(column_real, variance, 1.0)"),
    ("padding has no weight, not one of 0", PADDED,
     "tl.where(own, distance * distance, 0.0)",
     "tl.where(own & present[:, None], distance * distance, 0.0)"),
    ("places of other users are padding", PACKED,
     "tl.where(own, distance * distance, 0.0)",
     "distance * distance"),
    ("an empty history has a variance", PADDED,
     "tl.where(total == 0, total, 1.0 / L)[None, :]",
     "1.0 / L"),
    ("the variance of the last part alone", LONG,
     "squares += tl.sum(",
     "squares = tl.sum("),
    ("RR of the variances", PACKED,
     "tl.reshape(variance * variance, users_and_interests)",
     "tl.reshape(variance, users_and_interests)"),
    ("RR's gradient by all dimensions", PACKED,
     "* (4.0 / D)",
     "* 4.0"),
    ("RR's gradient of the first user", PACKED,
     "gain = tl.load(grad_rr_ptr + users, mask=column_real, other=0.0)",
     "gain = tl.load(grad_rr_ptr + 0 * users, mask=column_real, other=0.0)"),
    ("RR's gradient of a variance of 1", PACKED,
     "(gain * variance)[None, :]",
     "gain[None, :]"),
    ("RR's gradient is not centred",
     f"{QUERY}float32_error_budget[shape1-used2-0.5]",
     "* (routing - 1.0 / L)",
     "* (routing + 1000.0 / L)"),
)  # fmt: skip

SPREAD = group(
    KERNELS,
    ("all interests learn in the routing", PACKED,
     "        slope = tl.where(learns[None, :], slope, 0.0)\n",
     "        slope = slope\n"),
    ("all interests learn in the values", PACKED,
     "_load_rows(upward_ptr, upward_rows * D, learns, dims, D, SUM)",
     "_load_rows(upward_ptr, upward_rows * D, column_real, dims, D, SUM)"),
    ("the choice of the first user", PACKED,
     "tl.load(chosen_ptr + users, mask=column_real, other=-1)",
     "tl.load(chosen_ptr + 0 * users, mask=column_real, other=-1)"),
    ("the choice past the last user is read", GUARDED,
     "tl.load(chosen_ptr + users, mask=column_real, other=-1)",
     "tl.load(chosen_ptr + users)"),
)  # fmt: skip

AROUND = [
    *group(
        "kernels/self_attentive_query.py",
        ("RR's gradient is dropped", f"{QUERY}one_of_the_results_is_used[used1]",
         "chosen=chosen, variance=variance, grad_rr=grad_rr,",
         "chosen=chosen, variance=variance, grad_rr=None,"),
        ("a query that nobody uses has a gradient of 1",
         f"{QUERY}one_of_the_results_is_used[used1]",
         "grad_query = history.new_zeros(",
         "grad_query = history.new_ones("),
        ("a gradient of RR with gaps", f"{QUERY}non_contiguous_inputs",
         "            grad_rr = grad_rr.contiguous()\n",
         "            pass\n"),
        ("the target may have any dtype", f"{QUERY}what_does_not_fit_is_an_error[auto]",
         '{"target": (target, (batch, dim))}, same_dtype=True)',
         '{"target": (target, (batch, dim))})'),
        ("the target may be anything", f"{QUERY}what_does_not_fit_is_an_error[auto]",
         '    check_tensor("target", target)\n',
         ""),
    ),
    *group(
        "remi_fast/training/step.py",
        ("the loss chooses", f"{DEVICE}the_extractor_s_kernel_chooses_the_interest[ihn]",
         "by_triton(config, device) and config.loss.selection",
         "False and config.loss.selection"),
        ("the extractor chooses on the CPU, too",
         f"{DEVICE}the_loss_chooses_on_the_cpu_and_by_chance[native-loss0]",
         "by_triton(config, device) and config.loss.selection",
         "config.loss.selection"),
        ("the extractor chooses by chance, too",
         f"{DEVICE}the_loss_chooses_on_the_cpu_and_by_chance[triton-loss1]",
         'and config.loss.selection == "hard"',
         ""),
        ("RR is not the extractor's",
         f"{DEVICE}steps_are_those_of_the_reference[True-True-default]",
         "self.objective.of_query(step, query, *rows, **options), rr",
         "self.objective.of_query(step, query, *rows, **options), 0 * rr"),
    ),
]  # fmt: skip

MUTANTS = [*CHOICE, *REGULARIZER, *SPREAD, *AROUND]
