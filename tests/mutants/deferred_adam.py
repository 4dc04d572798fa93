"""Bugs in deferred Adam's Triton kernels, in what launches them, and in the steps on the device."""

from .killers import MEMORY, group

KERNELS = "kernels/deferred_adam_triton.py"
LAUNCH = "kernels/deferred_adam_launch.py"
STATE = "kernels/deferred_adam_state.py"

ADAM = "tests/kernels/test_deferred_adam.py::test_"
TRITON = "tests/kernels/test_deferred_adam_triton.py::test_"

GUARDED = f"{MEMORY}nothing_is_touched_beyond_a_tensor[adam]"
FAR = f"{TRITON}offsets_past_two_to_the_31"
LIMIT = f"{TRITON}stamps_near_the_int32_limit[triton]"
AGAIN = f"{ADAM}rows_touched_again[triton-10]"
GATHER = f"{ADAM}gather_gives_each_occurrence_its_row_and_brings_it_up_to_date[triton]"
NO_RATE = f"{ADAM}a_learning_rate_of_zero[triton]"
BESIDE = f"{ADAM}rows_with_their_moments_behind_them_have_the_same_bits[triton]"
STATE_TEST = "tests/kernels/test_adam_state.py::test_"
REFUSED = f"{STATE_TEST}rows_that_are_not_equally_far_apart_are_refused"
SPREAD = "tests/kernels/test_memory.py::test_"
HUGE = f"{ADAM}extreme_gradients_stay_finite[triton-1e+25]"
OUTSIDE = f"{TRITON}ids_outside_the_table_give_nan_and_get_nothing"
SORTED = f"{TRITON}ids_are_sorted_in_order_of_occurrence"
SCHEDULE = f"{TRITON}steps_of_a_schedule_are_on_the_device_as_on_the_host"
BY_ITSELF = f"{TRITON}several_steps_that_go_on_by_themselves"


def missed(tau=1, gap=40):
    return f"{ADAM}series_of_missed_steps_in_triton[{tau}-{gap}]"


def betas(number, gap="301-2000"):
    """1: 0.9 and 0.99; 2: 0.95 and 0.98; 4: 0.5 and 0.1; 5: 0 and 0.999."""
    return f"{ADAM}series_of_missed_steps_for_any_betas[triton-betas{number}-{gap}]"


def sums(ids="hot", sizes="33-128-4"):
    return f"{TRITON}sums_over_chunks[{ids}-{sizes}]"


SERIES = group(
    KERNELS,
    ("a step early", missed(),
     "steps = tau[:, None] + 1 + k",
     "steps = tau[:, None] + k"),
    ("first moment decays a step too far", missed(),
     "tl.load(decay_ptr + k, mask",
     "tl.load(decay_ptr + k + 1, mask"),
    ("second moment decays as the first", missed(),
     "tl.load(decay_ptr + HORIZON + k, mask",
     "tl.load(decay_ptr + k, mask"),
    ("mean not weighted", missed(),
     "mean += tl.sum(c * (r * per_unit), axis=1)",
     "mean += tl.sum(r, axis=1)"),
    ("a step too many", missed(),
     "present = k < last[:, None]\n"
     "        c, r = _terms(k, present, tau, step_size_ptr, correction_ptr, decay_ptr, HORIZON)\n"
     "        t0",
     "present = k <= last[:, None]\n"
     "        c, r = _terms(k, present, tau, step_size_ptr, correction_ptr, decay_ptr, HORIZON)\n"
     "        t0"),
    ("only the first block of steps", f"{TRITON}missed_steps_are_added_up_a_few_at_a_time[400-159]",
     "mean = tl.zeros(tau.shape, tl.float32)\n    for start in range(0, longest, BLOCK_K):",
     "mean = tl.zeros(tau.shape, tl.float32)\n    for start in range(0, BLOCK_K, BLOCK_K):"),
    ("division by no step size", NO_RATE,
     "moves = t0 != 0",
     "moves = t0 == t0"),
    ("division by a second moment that is gone", betas(4),
     "inverse = tl.div_rn(1.0, tl.maximum(mean, _SMALLEST))",
     "inverse = tl.div_rn(1.0, mean)"),
    ("not about the mean", missed(),
     "deviation = r * per_unit * inverse[:, None] - 1",
     "deviation = r * per_unit * inverse[:, None] - 1.01"),
    ("no second term", missed(300, 159),
     "t2 += tl.sum(c, axis=1)",
     "t2 += tl.sum(c * 0, axis=1)"),
    ("third term's sign", betas(0),
     "t3 += tl.sum(c, axis=1)",
     "t3 -= tl.sum(c, axis=1)"),
    ("no fourth term", betas(0),
     "t4 += tl.sum(c * deviation, axis=1)",
     "t4 += tl.sum(c * 0, axis=1)"),
    ("too few steps", missed(300, 159),
     "end = tl.minimum(gap, HORIZON)",
     "end = tl.minimum(gap, HORIZON // 2)"),
    ("first segments too long", missed(),
     "tl.maximum(before // _SEGMENT_GROWTH, 1)",
     "tl.maximum(before // _SEGMENT_GROWTH, 16)"),
    ("segments grow too fast", missed(),
     "_SEGMENT_GROWTH = tl.constexpr(5)",
     "_SEGMENT_GROWTH = tl.constexpr(1)"),
    ("one segment whatever beta2", betas(2),
     "tl.where(before < SETTLED, tl.minimum(growing, LONGEST), LONGEST)",
     "tl.where(before < SETTLED, growing, HORIZON)"),
    ("eps ignored in the series", missed(300, 159),
     "h = 1 - EPS * inverse",
     "h = 1 - 0 * inverse"),
    ("infinity by infinity", HUGE,
     "h = 1 - EPS * inverse",
     "h = root * r0[:, None] * inverse"),
    ("rows move the wrong way", missed(),
     "weight -= exp_avg * inverse * series",
     "weight += exp_avg * inverse * series"),
)  # fmt: skip

CATCHING_UP = group(
    KERNELS,
    ("decay is not quite beta to the gap", missed(),
     "gap.to(tl.float64) * LOG2_BETA",
     "gap.to(tl.float64) * LOG2_BETA * 0.99"),
    ("decay loses its whole part", missed(300, 159),
     "* tl.exp2(whole.to(tl.float32))",
     "* 1.0"),
    ("negative moments are negligible", missed(),
     "tl.abs(moment) < _NEGLIGIBLE_MOMENT",
     "moment < _NEGLIGIBLE_MOMENT"),
    ("first moment decays as the second", missed(),
     "_decayed(exp_avg, gap, LOG2_BETA1)",
     "_decayed(exp_avg, gap, LOG2_BETA2)"),
    ("rows never touched are late", GATHER,
     "late = (tau > 0) & (tau < t)\n    gap",
     "late = heads & (tau < t)\n    gap"),
    ("rows never touched get a stamp", GATHER,
     "t.to(tl.int32), mask=late)",
     "t.to(tl.int32), mask=heads)"),
    ("stamp stays", GATHER,
     "tl.store(stamp_ptr + rows, t.to(tl.int32), mask=late)",
     "tl.store(stamp_ptr + rows, tau.to(tl.int32), mask=late)"),
    ("weight is not stored", GATHER,
     "    tl.store(weight_ptr + offsets, weight, mask=mask)\n"
     "    tl.store(exp_avg_ptr + offsets, _decayed",
     "    tl.store(exp_avg_ptr + offsets, _decayed"),
    ("a flush goes beyond the table", GUARDED,
     "heads = (rows > 0) & (rows < count)",
     "heads = (rows > 0) & (rows <= count)"),
    ("a row of zeros for an id outside", OUTSIDE,
     'other=float("nan")',
     "other=0.0"),
    ("negative ids are read", GUARDED,
     "inside = (rows >= 0) & (rows < num_rows)",
     "inside = rows < num_rows"),
    ("an id beyond the table is read", GUARDED,
     "inside = (rows >= 0) & (rows < num_rows)",
     "inside = (rows >= 0) & (rows <= num_rows)"),
)  # fmt: skip

SUMS = group(
    KERNELS,
    ("a column too many", GUARDED,
     "present[:, None] & (dims < D)[None, :]",
     "present[:, None] & (dims <= D)[None, :]"),
    ("every occurrence is a head", sums(),
     "return ids, (ids != before) & (ids > 0)",
     "return ids, ids > 0"),
    ("padding is a row", f"{ADAM}padding_row_is_frozen[triton]",
     "return ids, (ids != before) & (ids > 0)",
     "return ids, (ids != before) & (ids >= 0)"),
    ("id before the first", GUARDED,
     "mask=inside & (positions > 0)",
     "mask=inside"),
    ("chunk before the first", GUARDED,
     "CHUNK - 1, mask=chunk > 0",
     "CHUNK - 1, mask=chunk >= 0"),
    ("carries rows that begin in the chunk", sums(),
     "carried = (ids == previous) & (ids > 0)",
     "carried = ids > 0"),
    ("carries to the chunk before", sums(),
     "tl.store(carry_ptr + chunk * D + dims",
     "tl.store(carry_ptr + tl.maximum(chunk - 1, 0) * D + dims"),
    ("sums beyond the chunk", sums(),
     "mask=following < end",
     "mask=following < end + 1"),
    ("gradients in the order of ids", sums("in turns"),
     "offsets, mask = _block(occurrences, j < times, D, D, BLOCK_D)",
     "offsets, mask = _block(positions + j, j < times, D, D, BLOCK_D)"),
    ("last gradient of the chunk only", sums(),
     "total += tl.load(gradients_ptr + offsets",
     "total = tl.load(gradients_ptr + offsets"),
    ("last gradient of the chunk lost", sums(),
     "range(0, tl.max(times, axis=0))",
     "range(0, tl.max(times, axis=0) - 1)"),
    ("first id for the last", sums(),
     "last = tl.load(sorted_ids_ptr + end - 1)",
     "last = tl.load(sorted_ids_ptr + start)"),
    ("carries of the own chunk, too", sums(),
     "last, present, chunk + 1, count",
     "last, present, chunk, count"),
    ("carries of a few chunks only", sums(sizes="5-16-2"),
     "axis=0) > 0, chunk + CHUNK, count)",
     "axis=0) > 0, count, count)"),
    ("carries for every row", sums("hot and others"),
     "gradient += tl.where(goes_on[:, None], carried[None, :], 0.0)",
     "gradient += carried[None, :]"),
    ("chunks of a block each", sums(),
     "chunk = start // CHUNK",
     "chunk = start // ROWS"),
)  # fmt: skip

OFFSETS = group(
    KERNELS,
    ("offsets in 32 bits", FAR,
     "return rows[:, None] * stride",
     "return rows.to(tl.int32)[:, None] * stride"),
    by_signal=True,
)  # fmt: skip

STEP = group(
    KERNELS,
    ("first moment does not decay", AGAIN,
     "BETA1 * exp_avg + REST1 * gradient",
     "exp_avg + REST1 * gradient"),
    ("gradient not squared", AGAIN,
     "REST2 * gradient * gradient",
     "REST2 * gradient"),
    ("no bias correction", AGAIN,
     "* correction + EPS",
     "+ EPS"),
    ("step size of another step", AGAIN,
     "step_size = tl.load(step_size_ptr + t)",
     "step_size = tl.load(step_size_ptr + t - 20)"),
    ("stamp of the step before", AGAIN,
     "tl.store(stamp_ptr + rows, t.to(tl.int32), mask=heads)",
     "tl.store(stamp_ptr + rows, (t - 1).to(tl.int32), mask=heads)"),
)  # fmt: skip

LAUNCHES = group(
    LAUNCH,
    ("negative ids wrap", SORTED,
     "outside = (ids < 0) | (ids >= num_rows)",
     "outside = ids >= num_rows"),
    ("an id too many", SORTED,
     "(ids >= num_rows)",
     "(ids > num_rows)"),
    ("ids in 32 bits before they are looked at", SORTED,
     "    outside =",
     "    ids = ids.int()\n    outside ="),
    ("another decay of the second moment", AGAIN,
     "REST2=1 - steps.beta2",
     "REST2=1 - steps.beta1"),
    ("betas swapped in the catch-up", missed(),
     "LOG2_BETA2=_log2(steps.beta2)",
     "LOG2_BETA2=_log2(steps.beta1)"),
    ("blocks over several chunks", sums(sizes="5-128-4"),
     'min(sizes["ROWS"], chunk)',
     'sizes["ROWS"]'),
    ("last chunk carries nothing", sums(),
     "chunks = triton.cdiv(count, chunk)",
     "chunks = count // chunk"),
    ("last block makes no step", sums(),
     '(triton.cdiv(count, sizes["ROWS"]),),\n        *_tensors(state), gradients',
     '(count // sizes["ROWS"] // 2,),\n        *_tensors(state), gradients'),
    ("strided gradients read as dense", f"{ADAM}gradients_may_have_any_strides[triton]",
     "gradients = gradients.contiguous()",
     "pass"),
    ("nothing is caught up for reading", missed(),
     "CATCH_UP=not up_to_date",
     "CATCH_UP=False"),
    ("no decay at beta 0", betas(5, "1-200"),
     "else -1e4",
     "else 0.0"),
)  # fmt: skip

STEPS = group(
    STATE,
    ("a moment's rows at another distance", REFUSED,
     "if tensor.stride() != strides or",
     "if"),
    ("rows that are not contiguous", REFUSED,
     "strides[1] != 1 or strides[0]",
     "strides[0]"),
    ("rows one on the other", REFUSED,
     " or strides[0] < shape[1]:",
     ":"),
    ("a moment of another shape", f"{STATE_TEST}state_of_unequal_shapes_is_refused[exp_avg]",
     " or got != shape:",
     ":"),
    ("horizon of the first moment alone", betas(2),
     "shrinks = log_beta1 - math.log(self.beta2) / 2",
     "shrinks = log_beta1"),
    ("no bias correction on the host", AGAIN,
     "1 / math.sqrt(-math.expm1(j * math.log(self.beta2)))",
     "1.0"),
    ("one step at a time on the device", SCHEDULE,
     "self.step.fill_(self._table.step)",
     "self.step.add_(1)"),
    ("a step size left out", SCHEDULE,
     "first, end = self._written + 1",
     "first, end = self._written + 2"),
    ("device keeps what was restored", SCHEDULE,
     "device_steps.forget()",
     "pass"),
    ("growing forgets", SCHEDULE,
     "new[: len(old)].copy_(old)",
     "pass"),
    ("graphs read a table that is gone", BY_ITSELF,
     "self._captured = True",
     "self._captured = False"),
    ("the host's step is the device's", BY_ITSELF,
     "if self._written != self._table.step:",
     "if True:"),
)  # fmt: skip

ROOM = group(
    "kernels/memory.py",
    ("rows move apart from the first on", f"{SPREAD}rows_move_apart_in_place[50-3-2]",
     "for end in range(count, 0, -_ROWS_MOVED):",
     "for end in reversed(range(count, 0, -_ROWS_MOVED)):"),
    ("old rows are moments", f"{SPREAD}rows_move_apart_in_place[7-5-3]",
     "        made[start:end, 1:] = 0\n",
     ""),
    ("room is never there", f"{SPREAD}room_is_there_where_it_was_asked_for",
     ">= parts * rows.nbytes > 0",
     "> parts * rows.nbytes > 0"),
)  # fmt: skip

APART = group(
    KERNELS,
    ("rows are taken to be dense", BESIDE,
     "return rows[:, None] * stride + dims",
     "return rows[:, None] * D + dims"),
)  # fmt: skip

MUTANTS = [*ROOM, *APART, *SERIES, *CATCHING_UP, *SUMS, *OFFSETS, *STEP, *LAUNCHES, *STEPS]
