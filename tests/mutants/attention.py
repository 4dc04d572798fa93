"""Bugs in the Triton kernels of ComiRec-SA's extractor, and in what calls them."""

from .killers import MEMORY, group

KERNELS = "kernels/self_attentive_triton.py"
LAUNCH = "kernels/self_attentive_launch.py"
OPERATION = "kernels/self_attentive.py"
ATTENTION = "tests/kernels/test_self_attentive_triton.py::test_"

PACKED = f"{ATTENTION}matches_float64_autograd[shape1]"  # three users a tile
LONG = f"{ATTENTION}matches_float64_autograd[shape2]"  # three tiles a user
SHORT = f"{ATTENTION}matches_float64_autograd[shape0]"  # one number of everything
PADDED = f"{ATTENTION}padding_counts_for_nothing_and_an_empty_history_is_zero[6]"
TANH = f"{ATTENTION}tanh_is_accurate_everywhere[dtype0]"
WIDE_TANH = f"{ATTENTION}tanh_is_accurate_everywhere[dtype1]"
FALLING = f"{ATTENTION}peaked_logits[40--1]"
RISING = f"{ATTENTION}peaked_logits[40-1]"
NEAREST = f"{ATTENTION}half_precision_is_rounded_to_nearest"
AUTOCAST = f"{ATTENTION}autocast_multiplies_in_its_dtype_and_leaves_that_of_the_history"
TOO_MANY = f"{ATTENTION}too_large_for_triton[sizes2-got 17 interests, at most 16]"
GUARDED = f"{MEMORY}nothing_is_touched_beyond_a_tensor[attention]"


def far(dimension):
    return f"{ATTENTION}offsets_past_two_to_the_31[{dimension}]"


FORWARD = group(
    KERNELS,
    ("tanh near 0 by its exponential", TANH,
     "tl.where(size < 0.625, x",
     "tl.where(size < 0.0, x"),
    ("tanh has no sign", TANH,
     "tl.where(x < 0, -large, large)",
     "large"),
    ("tanh of float64 with the series of float32", WIDE_TANH,
     "if x.dtype == tl.float64:",
     "if x.dtype == tl.float16:"),
    ("every user of a tile is the first", PACKED,
     "slots = rows // PLACES",
     "slots = rows // (PLACES + 99)"),
    ("rows past the last user of a tile are the next tile's", PACKED,
     "real = (slots < USERS) & (users < B) & (places < L)",
     "real = (users < B) & (places < L)"),
    ("places past the last of all", GUARDED,
     "(users < B) & (places < L)\n    length",
     "(users < B)\n    length"),
    ("places past a history", PADDED,
     "real & (places < length)",
     "real"),
    ("no positions", PACKED,
     "return (history + _load_rows(positions_ptr, places * D, present, dims, D, SUM)).to(DOT)",
     "return history.to(DOT)"),
    ("hidden units of W1 past the last", GUARDED,
     "mask = (dims < D)[:, None] & (units < H)[None, :]\n    return",
     "mask = (dims < D)[:, None] & (units >= 0)[None, :]\n    return"),
    ("only the last chunk of dimensions", LONG,
     "hidden = tl.dot(inputs, w1, hidden, input",
     "hidden = tl.dot(inputs, w1, input"),
    ("only the last hidden units", LONG,
     "hidden.to(DOT), tl.trans(w2), logits, input",
     "hidden.to(DOT), tl.trans(w2), input"),
    ("users of a tile share a softmax", PACKED,
     "logits = tl.where(same_user & present[:, None], logits, -_INF)",
     "logits = tl.where(present[:, None], logits, -_INF)"),
    ("the maximum of the last tile alone", FALLING,
     "new_maximum = tl.maximum(maximum, tl.max(logits, axis=0))",
     "new_maximum = tl.max(logits, axis=0)"),
    ("sums of other tiles are not shrunk", RISING,
     "total = total * tl.exp(maximum - finite) +",
     "total = total +"),
    ("an empty history is divided by 0", PADDED,
     "tl.where(total == 0, 1.0, total)",
     "total"),
    ("interests of the last part alone", LONG,
     "history.to(DOT), mixed,",
     "history.to(DOT),"),
    ("interests are cut off", NEAREST,
     "rounded(mixed, interests_ptr.dtype.element_ty)",
     "mixed.to(interests_ptr.dtype.element_ty)"),
)  # fmt: skip

FAR_AWAY = group(
    KERNELS,
    ("users far apart", far(0),
     "users = (tile * USERS + slots).to(tl.int64)\n    places",
     "users = tile * USERS + slots\n    places"),
    ("places far apart", far(1),
     "rows = users * stride_user + places.to(tl.int64) * stride_place\n    logits",
     "rows = users * stride_user + places * stride_place\n    logits"),
    by_signal=True,
)  # fmt: skip

BACKWARD = group(
    KERNELS,
    ("no gradient of the routing itself", PACKED,
     "slope += tl.load(grad_routing_ptr",
     "slope += 0 * tl.load(grad_routing_ptr"),
    ("the softmax's gradient is not centred", PACKED,
     "(routing * (slope - mean[None, :])).to(DOT)",
     "(routing * slope).to(DOT)"),
    ("the mean of the last part alone", LONG,
     "mean += tl.sum(routing * slope, axis=0)",
     "mean = tl.sum(routing * slope, axis=0)"),
    ("tanh's gradient is 1", PACKED,
     "slope = (slope * (1 - hidden * hidden)).to(DOT)",
     "slope = slope.to(DOT)"),
    ("only the last tile of a program", PACKED,
     "tl.store(pointers, before + values, mask=mask)",
     "tl.store(pointers, values, mask=mask)"),
    ("memory that nobody has written is added to", SHORT,
     "mask=mask & (is_first == 0), other=0.0)",
     "mask=mask, other=0.0)"),
    ("every part of a history is the first", LONG,
     "grad_logits, interests, (tile == part) & (start == 0),",
     "grad_logits, interests, tile == part,"),
    ("inputs get the gradient of the last units", LONG,
     "slope, tl.trans(w1), grad_inputs, input",
     "slope, tl.trans(w1), input"),
    ("values have no gradient", PACKED,
     "routing.to(DOT), upward.to(DOT), grad_inputs,",
     "0 * routing.to(DOT), upward.to(DOT), grad_inputs,"),
    ("W2's gradient of the first user of a tile", PACKED,
     "mask = inside & ((user == 0) | (of_w2 >= 0))",
     "mask = inside & ((user == 0) | (of_positions >= 0))"),
    ("W1's gradient is summed for each user of a tile", PACKED,
     "mask = inside & ((user == 0) | (of_w2 >= 0))",
     "mask = inside"),
    ("W2's gradient transposed", PACKED,
     "of_w2 % K * H + of_w2 // K",
     "of_w2 % H * K + of_w2 // H"),
    ("the history's gradient past the last user", GUARDED,
     "mask=real[:, None] & (dims < D)[None, :])\n            tl.debug",
     "mask=(dims < D)[None, :])\n            tl.debug"),
)  # fmt: skip

HOST = [
    *group(
        LAUNCH,
        ("more columns than a tile has", f"{ATTENTION}matches_float64_autograd[shape4]",
         "block = triton.next_power_of_2(interests)\n    columns",
         "block = 1\n    columns"),
        ("a large batch has small tiles", f"{ATTENTION}a_small_batch_has_as_many_programs",
         "< _PROGRAMS\n",
         "< 100 * _PROGRAMS\n"),
        ("a small batch has large tiles", f"{ATTENTION}a_small_batch_has_as_many_programs",
         "        rows //= 2\n",
         "        break\n"),
    ),
    *group(
        OPERATION,
        ("autocast is not heard", AUTOCAST,
         "if dtype != torch.float64 and torch.is_autocast_enabled(device):",
         "if dtype != torch.float64 and not torch.is_autocast_enabled(device):"),
        ("autocast multiplies float64 in half precision", AUTOCAST,
         "if dtype != torch.float64 and torch.is_autocast_enabled(device):",
         "if torch.is_autocast_enabled(device):"),
        ("dimensions with gaps", f"{ATTENTION}non_contiguous_inputs",
         "    if history.stride(2) != 1:\n",
         "    if history.stride(2) == 1:\n"),
        ("interests that nobody uses have a gradient of None",
         f"{ATTENTION}one_of_the_results_is_used[1]",
         "grad_interests = history.new_zeros(",
         "grad_interests = history.new_ones("),
        ("any number of interests", TOO_MANY,
         "    if w2.shape[1] > MAX_TRITON_INTERESTS:",
         "    if w2.shape[1] > 2 * MAX_TRITON_INTERESTS:"),
    ),
]  # fmt: skip

MUTANTS = [*FORWARD, *FAR_AWAY, *BACKWARD, *HOST]
