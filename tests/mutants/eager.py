"""Bugs in the kernels that are NumPy or PyTorch, and in what chooses and calls the others."""

from .killers import DRAWS, FULL, IHN, MULTI, NEGATIVES, group

ADAM = "tests/kernels/test_deferred_adam.py::test_"
EXTRACTOR = "tests/kernels/test_self_attentive.py::test_"
PERMUTATION = "tests/kernels/test_permutation.py::test_"
PHILOX = "tests/kernels/test_philox.py::test_"
NON_FINITE = "tests/training/test_non_finite.py::test_"

BIJECTION = f"{PERMUTATION}bijection_the_same_in_cpp[5]"
KNOWN = (
    f"{PHILOX}known_answers[ffffffff ffffffff ffffffff ffffffff-ffffffff ffffffff-"
    "408f276d 41c83b0e a20bc7c6 6d5451fd]"
)
TILED = f"{IHN}matches_float64_autograd[native--1.0-1.0]"
MASKED = f"{IHN}matches_float64_autograd[native-masked-1.0-0.37]"
ATTENTIVE = f"{EXTRACTOR}matches_float64_autograd[0.3-shape1]"

RANDOM = group(
    "kernels/philox.py",
    ("a round too few", KNOWN,
     "_ROUNDS = 10",
     "_ROUNDS = 9"),
    ("keys swapped", KNOWN,
     "^ c3 ^ k[1],",
     "^ c3 ^ k[0],"),
    ("step and stream swapped", f"{PHILOX}counter_and_key_hold_what_is_documented",
     "(indices), step, stream, seed)",
     "(indices), stream, step, seed)"),
    ("high word of the seed lost", f"{PHILOX}cpp_draws_the_same_words[0-4294967296]",
     "return seed & 0xFFFFFFFF, seed >> 32",
     "return seed & 0xFFFFFFFF, 0"),
    ("carry lost", f"{PHILOX}bounded_is_the_high_part_of_the_product",
     "(high * wide + (low * wide >> _WORD)) >> _WORD",
     "(high * wide) >> _WORD"),
)  # fmt: skip

PERMUTING = group(
    "kernels/permutation.py",
    ("halves swapped", f"{PERMUTATION}bijection_the_same_in_cpp[5]",
     "return high << low_bits | low",
     "return low << high_bits | high"),
    ("one round key for all", BIJECTION,
     "low = low ^ _mix(high, odd, low_bits)",
     "low = low ^ _mix(high, even, low_bits)"),
    ("not walked to the end", BIJECTION,
     "walking = walking[image[walking] >= np.uint64(n)]",
     "walking = walking[image[walking] > np.uint64(n)]"),
    ("the step is ignored", f"{PERMUTATION}seeds_and_steps_give_other_permutations",
     "random_words(np.arange(rounds(bits)), step, stream, seed)",
     "random_words(np.arange(rounds(bits)), 0, stream, seed)"),
    ("the stream is ignored", f"{DRAWS}backends_draw_alike_without_replacement[1000]",
     "random_words(np.arange(rounds(bits)), step, stream, seed)",
     "random_words(np.arange(rounds(bits)), step, PERMUTATION_KEYS, seed)"),
)  # fmt: skip

DRAWING = [
    *group(
        NEGATIVES,
        ("the reference draws the padding", f"{DRAWS}backends_agree[1280-1000]",
         "    if table is None:\n        return 1 + column\n",
         "    if table is None:\n        return column\n"),
        ("distinct negatives are the users", f"{DRAWS}known_ids",
         "image = C.permute(np.arange(num), num_items - 1, seed, step, NEGATIVE_KEYS)",
         "image = C.permute(np.arange(num), num_items - 1, seed, step)"),
        ("more are drawn than there are", f"{DRAWS}refusals[change9-num: got 9 without "
         "replacement, expected at most 8]",
         "    if num >= num_items:\n",
         "    if num > num_items:\n"),
        ("a column's alias when it is kept", f"{DRAWS}backends_draw_alike_by_a_table[zipf]",
         "torch.where(kept, column, table.alias[column].long())",
         "torch.where(kept, table.alias[column].long(), column)"),
        ("a word that chose the column, too", f"{DRAWS}backends_draw_alike_by_a_table[zipf]",
         "words[:, 2].astype(np.int64)",
         "words[:, 1].astype(np.int64)"),
    ),
    *group(
        "kernels/proposal.py",
        ("what aliases draw is left out of q",
         f"{DRAWS}an_alias_table_is_the_distribution_of_its_weights[4-zipf]",
         "np.add.at(taken, alias, _WHOLE - threshold)",
         "taken[alias] += _WHOLE - threshold"),
        ("q of the columns, not of the items", f"{DRAWS}draws_have_the_frequencies_of_q[zipf]",
         "np.concatenate([[-np.inf], log_q])",
         "np.concatenate([log_q, [-np.inf]])"),
        ("ranks from 0", f"{DRAWS}log_uniform_is_that_of_tensorflow",
         "torch.log1p(1 / rank.clamp_min(1))",
         "torch.log1p(1 / (rank + 1))"),
    ),
]  # fmt: skip

DENSE = "tests/training/test_dense_adam.py::test_"
DENSE_ADAM = group(
    "remi_fast/training/dense_adam.py",
    ("the reference is native", f"{DENSE}the_reference_is_torch",
     'backend != "reference"',
     'backend != "eager"'),
    ("a state that was replaced moves", f"{DENSE}a_state_that_was_loaded_is_the_one_that_moves",
     "def _forget_native(self) -> None:\n        self._native = None",
     "def _forget_native(self) -> None:\n        pass"),
    ("the rate of the first step", f"{DENSE}goes_on_from_a_state_dict_with_the_same_bits",
     'step_if_finite(self.param_groups[0]["lr"]',
     'step_if_finite(self.defaults["lr"]'),
    ("torch's way looks at no moments", f"{DENSE}what_is_not_finite_changes_nothing["
     "exp_avg_sq-3-reference]",
     "[*gradients, *moments, *self._parameters]",
     "[*gradients, *self._parameters]"),
)  # fmt: skip

LENGTHS = "tests/kernels/test_checks.py::test_lengths_that_are_none"
HISTORIES = group(
    "kernels/checks.py",
    ("lengths of no whole number", f"{LENGTHS}[float-capsules-native]",
     "if length.is_floating_point() or length.is_complex() or",
     "if"),
    ("lengths beyond the history", f"{LENGTHS}[beyond-capsules-native]",
     "if not 0 <= found <= history.shape[1]:",
     "if not 0 <= found:"),
    ("negative lengths", f"{LENGTHS}[negative-query-reference]",
     "if not 0 <= found <= history.shape[1]:",
     "if not found <= history.shape[1]:"),
)  # fmt: skip

FINITE = group(
    "kernels/finite.py",
    ("float64 goes to the code for float32", f"{NON_FINITE}every_element_is_looked_at[1]",
     " and tensor.dtype == torch.float32",
     ""),
    ("the last one that is not finite", f"{NON_FINITE}every_element_is_looked_at[7]",
     "index = tuple(int(i) for i in bad[0])",
     "index = tuple(int(i) for i in bad[-1])"),
)  # fmt: skip

ATTENDING = group(
    "kernels/self_attentive.py",
    ("the position before", ATTENTIVE,
     "positions.index_select(0, real % max_length)",
     "positions.index_select(0, (real - 1) % max_length)"),
    ("padding has routing", f"{EXTRACTOR}routing_is_a_distribution_over_the_real_positions[native]",
     "history.new_full((batch * max_length, w2.shape[1]), -math.inf)",
     "history.new_full((batch * max_length, w2.shape[1]), 0.0)"),
    ("an empty history has routing",
     f"{EXTRACTOR}routing_is_a_distribution_over_the_real_positions[native]",
     "dim=2).masked_fill_(empty, 0.0)",
     "dim=2)"),
    ("softmax's gradient is not centred", ATTENTIVE,
     "grad_logits = routing * (grad_routing - inner)",
     "grad_logits = routing * grad_routing"),
    ("no gradient through the routing to the history", ATTENTIVE,
     "return grad_history.add_(grad_inputs), None",
     "return grad_history, None"),
    ("positions of the first sample", ATTENTIVE,
     "grad_positions = grad_inputs.sum(dim=0)",
     "grad_positions = grad_inputs[0]"),
    ("tanh's slope is 1", ATTENTIVE,
     "(grad_logits @ w2.T) * (1 - hidden.square())",
     "grad_logits @ w2.T"),
    ("gradient of the routing is lost", ATTENTIVE,
     "grad_routing = grad_routing + grad_interests @ history.transpose(1, 2)",
     "grad_routing = grad_interests @ history.transpose(1, 2)"),
)  # fmt: skip

IN_TILES = group(
    "kernels/ihn_loss_tiled.py",
    ("the sum of weights of the last tile", f"{IHN}matches_float64_autograd[native--1.0-0.37]",
     "weight_sum += weight.sum(dim=1, keepdim=True)",
     "weight_sum = weight.sum(dim=1, keepdim=True)"),
    ("weights' slope added", TILED,
     "slope.addcmul_(weight, weight_factor, value=-1)",
     "slope.addcmul_(weight, weight_factor, value=1)"),
    ("masked negatives are in the sum", MASKED,
     "    scores.masked_fill_(same, -math.inf)\n",
     ""),
    ("hard without beta", TILED,
     "        return weight * weight, weight\n",
     "        return weight, weight\n"),
    ("targets are repelled", TILED,
     "grad_target = -strength * query",
     "grad_target = strength * query"),
    ("scale of one negative more", TILED,
     "math.log(max(num_negatives, 1))",
     "math.log(num_negatives + 1)"),
    ("log q of the first tile", f"{IHN}matches_float64_autograd[native-log_q-1.0-0.37]",
     "options.log_q.min() - options.log_q[columns]",
     "options.log_q.min() - options.log_q.flip(0)[columns]"),
)  # fmt: skip

CALLING = [
    *group(
        "kernels/multi_interest_ihn_loss_native.py",
        ("scores are kept of another pass",
         "tests/kernels/test_multi_interest_ihn_loss_native.py::test_scores_of_a_large_problem_"
         "are_not_kept",
         "0 < blocks * LANES * len(negatives) <= KEPT_SCORES",
         "0 < blocks * LANES * len(negatives)"),
        ("strided rows are read as dense",
         "tests/kernels/test_multi_interest_ihn_loss_native.py::test_strided_inputs_and_expanded_"
         "gradients",
         "x.detach().contiguous().numpy()",
         "x.detach().as_strided(x.shape, x.new_empty(x.shape).stride()).numpy()"),
        ("gradient of the loss for that of rr",
         "tests/kernels/test_multi_interest_ihn_loss_native.py::test_one_of_the_two_results_is_"
         "used[1]",
         "reaches = (grad_loss, grad_loss, grad_loss, grad_rr)",
         "reaches = (grad_loss, grad_loss, grad_loss, grad_loss)"),
    ),
    *group(
        "kernels/full_catalogue_ihn_loss.py",
        ("padding is in the catalogue", f"{FULL}padding_has_no_part_and_detached_weights[native]",
         "            item_table[1:],\n",
         "            item_table[: num_items - 1],\n"),
        ("the target is its own negative", f"{FULL}matches_the_ideal_distribution[5-70-1.0-native]",
         "negative_ids=torch.arange(1, num_items,",
         "negative_ids=torch.arange(0, num_items - 1,"),
        ("scale of the whole catalogue", f"{FULL}matches_the_ideal_distribution[5-70-1.0-native]",
         "math.log(max(num_items - 2, 1))",
         "math.log(max(num_items - 1, 1))"),
    ),
    *group(
        "kernels/multi_interest_ihn_loss.py",
        ("hits are masked where they should not be", f"{MULTI}hits_are_masked_by_id[native]",
         "target_ids=target_ids if mask_hits else None,\n"
         "            negative_ids=ids if mask_hits else None,",
         "target_ids=None,\n            negative_ids=None,"),
        ("the seed is ignored", f"{MULTI}drawn_negatives_are_those_of_every_backend[12345-"
         "2147483648-native]",
         "len(item_table), seed=seed, step=step",
         "len(item_table), seed=0, step=step"),
    ),
]  # fmt: skip

ADAM_STATE = [
    *group(
        "kernels/deferred_adam.py",
        ("a view of old step sizes",
         f"{ADAM}what_is_kept_between_steps_is_made_anew_for_other_steps",
         "if state.native is None or state.native[0] is not steps.step_size:",
         "if state.native is None:"),
        ("padding is updated", f"{ADAM}reference_is_dense_adam[constant]",
         "    keep = ids != 0\n",
         "    keep = ids >= 0\n"),
        ("gradients of a row are not summed", f"{ADAM}reference_is_dense_adam[constant]",
         ".index_add_(0, inverse, gradients)",
         ".index_copy_(0, inverse, gradients)"),
        ("no catch-up before a gather", f"{ADAM}reference_is_dense_adam[constant]",
         "    _store(state, ids, _reference_caught_up(state, steps, ids))\n"
         "    return state.weight[rows.ids]",
         "    return state.weight[rows.ids]"),
        ("strided gradients are read as dense", f"{ADAM}gradients_may_have_any_strides[native]",
         "rows.plan, gradients.contiguous().numpy()",
         "rows.plan, gradients.as_strided(gradients.shape, (gradients.shape[1], 1)).numpy()"),
    ),
    *group(
        "kernels/deferred_adam_state.py",
        ("a change of the rate is no run", f"{ADAM}step_table_keeps_schedules_as_runs",
         "np.flatnonzero(np.diff(rates, prepend=np.nan))",
         "np.flatnonzero(rates)[:1]"),
        ("the last run is a step too short", f"{ADAM}step_table_keeps_schedules_as_runs",
         "for first, _ in rates] + [step + 1])",
         "for first, _ in rates] + [step])"),
        ("correction of the step before", f"{ADAM}rows_touched_again[native-10]",
         "1 / math.sqrt(-math.expm1(j * math.log(self.beta2)))",
         "1 / math.sqrt(-math.expm1((j + 1) * math.log(self.beta2)))"),
        ("what was there is lost as the table grows", f"{ADAM}series_of_missed_steps[159-1000]",
         "            new[: len(old)] = old\n            setattr",
         "            setattr"),
    ),
]  # fmt: skip

MUTANTS = [
    *RANDOM, *PERMUTING, *DRAWING, *HISTORIES, *FINITE, *DENSE_ADAM, *ATTENDING, *IN_TILES,
    *CALLING, *ADAM_STATE,
]  # fmt: skip
