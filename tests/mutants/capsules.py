"""Bugs in capsule routing: its formula, PyTorch's, C++ and Triton kernels, and what calls them."""

from .killers import MEMORY, group

KERNELS = "kernels/capsule_routing_triton.py"
LAUNCH = "kernels/capsule_routing_launch.py"
OPERATION = "kernels/capsule_routing.py"
CAPSULES = "tests/kernels/test_capsule_routing.py::test_"

GUARDED = f"{MEMORY}nothing_is_touched_beyond_a_tensor[capsules]"
HALF = f"{CAPSULES}half_precision[shared-dtype0]"
FALLING = f"{CAPSULES}extreme_logits[shared--1-triton]"
RISING = f"{CAPSULES}extreme_logits[shared-1-triton]"


def routed(matrix="own", backend="triton"):
    return f"{CAPSULES}matches_the_published_loop[shape1-{matrix}-{backend}]"


def padded(matrix="shared", through=False, backend="triton"):
    name = "padding_counts_for_nothing_and_an_empty_history_is_zero"
    return f"{CAPSULES}{name}[{matrix}-{through}-{backend}]"


def native(matrix, through):
    return f"{CAPSULES}float32_error_budget_of_native_code[shape0-{matrix}-{through}]"


def gradients(matrix="shared", through=True, shape=0):
    return f"{CAPSULES}matches_float64_autograd[shape{shape}-{matrix}-{through}-triton]"


FORMULA = group(
    "kernels/reference.py",
    ("votes of another position", routed(backend="reference"),
     "history.transpose(0, 1) @ weight.transpose(1, 2)",
     "history.transpose(0, 1) @ weight.flip(0).transpose(1, 2)"),
    ("interests and positions swapped", routed(backend="reference"),
     "votes.view(positions, batch, weight.shape[1] // dim, dim).permute(1, 2, 0, 3)",
     "votes.view(positions, batch, dim, weight.shape[1] // dim).permute(1, 3, 0, 2)"),
)  # fmt: skip

NATIVE = group(
    OPERATION,
    ("an iteration too few", routed(backend="native"),
     "        if not through_routing:\n            logits = _agree(votes, logits, padding)\n",
     ""),
    ("padding votes", padded(backend="native"),
     "reference.capsule_votes(history.masked_fill(padding[:, :, None], 0.0), weight)",
     "reference.capsule_votes(history, weight)"),
    ("routing to padding", routed(backend="native"),
     "torch.softmax(logits, dim=2).masked_fill(padding[:, None, :], 0.0)",
     "torch.softmax(logits, dim=2)"),
    ("softmax over the interests", routed(backend="native"),
     "torch.softmax(logits, dim=2)",
     "torch.softmax(logits, dim=1)"),
    ("logits are not added up", routed(backend="native"),
     "return logits + (votes @ interests[..., None])[..., 0]",
     "return (votes @ interests[..., None])[..., 0]"),
    ("no gradient through the routing",
     f"{CAPSULES}rr_reaches_the_votes_through_the_last_update[native]",
     "    if through_routing:\n        logits = _agree(votes, logits, padding)",
     "    if through_routing:\n        logits = _agree(votes.detach(), logits, padding)"),
    ("interests are not squashed", routed(backend="native"),
     "return reference.squash(_mix(routing, votes)), routing",
     "return _mix(routing, votes), routing"),
)  # fmt: skip

CPP = group(
    "csrc/capsule_routing.cpp",
    ("an iteration too few in C++", native("own", False),
     "        iterate(in, votes, length, s);\n        route(s, positions, length);",
     "        route(s, positions, length);"),
    ("padding is not in the softmax", native("own", False),
     "for (int64_t l = 0; l < positions; ++l) total += s.routing[l];",
     "for (int64_t l = 0; l < length; ++l) total += s.routing[l];"),
    ("padding has routing in C++", native("own", True),
     "for (int64_t l = length; l < positions; ++l) s.routing[l] = 0.0f;",
     ""),
    ("every interest has the first one's logits", native("own", False),
     "b * in.logits_user + k * in.sizes.positions",
     "b * in.logits_user"),
    ("squash's gradient along the vector", native("own", False),
     "(1.0f - square)",
     "(1.0f + square)"),
    ("softmax's gradient is not centred in C++", native("own", True),
     "routing[l] * (s.slope[l] - mean)",
     "routing[l] * s.slope[l]"),
    ("the routing before is the last in C++", native("own", True),
     "add(s.routing[l], &s.grad_before[0]",
     "add(routing[l], &s.grad_before[0]"),
    ("only the last interest votes", native("shared", False),
     "if (k == 0 || g.grad_votes.interest != 0)",
     "if (k >= 0)"),
)  # fmt: skip

BINDINGS = group(
    "csrc/capsule_routing_bindings.cpp",
    ("every user has the first one's logits", native("own", False),
     "logits.shape(0) == 1 ? 0 : s.interests * s.positions",
     "0"),
)  # fmt: skip

FORWARD = group(
    KERNELS,
    ("an iteration too few in Triton", routed(),
     "for _ in range(2):",
     "for _ in range(1):"),
    ("queries are not added up", routed(),
     "query += _product(squashed",
     "query = _product(squashed"),
    ("rows of padding are read", padded(),
     "mask = (places < length)[:, None] & (dims < D)[None, :]",
     "mask = (places >= 0)[:, None] & (dims < D)[None, :]"),
    ("places past the end have logits", routed(),
     "mask=places < L, other=-_INF)",
     "mask=places < L, other=0.0)"),
    ("the maximum of the last tile", FALLING,
     "new_maximum = tl.maximum(maximum, tl.max(logits, axis=0))",
     "new_maximum = tl.max(logits, axis=0)"),
    ("the sum of other tiles is not shrunk", RISING,
     "total = total * shrink +",
     "total = total +"),
    ("rows of other tiles are not shrunk", RISING,
     "mixed = mixed * shrink +",
     "mixed = mixed +"),
    ("the matrix transposed", routed("shared"),
     "ins[:, None] * STRIDE_IN + outs[None, :] * STRIDE_OUT",
     "ins[:, None] * STRIDE_OUT + outs[None, :] * STRIDE_IN"),
    ("every chunk of a vector is the first", gradients(through=False, shape=1),
     "here = tl.arange(0, BLOCK_D // CHUNK) == i",
     "here = tl.arange(0, BLOCK_D // CHUNK) == 0"),
    ("chunks are not added up", gradients(through=False, shape=1),
     "product += tl.sum(",
     "product = tl.sum("),
    ("vectors of unit length", routed(),
     "return vector * (tl.sqrt(square) / (1 + square))",
     "return vector / tl.sqrt(square)"),
    ("routing to padding in Triton", padded(),
     "routing = tl.where(places < length, tl.exp(logits - maximum) / total, 0.0)",
     "routing = tl.exp(logits - maximum) / total"),
    ("interests are cut off", HALF,
     "rounded(vector, vector_ptr.dtype.element_ty)",
     "vector.to(vector_ptr.dtype.element_ty)"),
)  # fmt: skip

BACKWARD = group(
    KERNELS,
    ("squash's gradient as if the length were constant", gradients("own", through=False),
     "return (gradient + along * unit) * (norm / (1 + square))",
     "return gradient * (norm / (1 + square))"),
    ("squash's gradient at 0", padded(),
     "norm = tl.sqrt(tl.maximum(square, _TINY))",
     "norm = tl.sqrt(square)"),
    ("softmax's gradient is not centred", gradients("own"),
     "axis=1) - mean)",
     "axis=1))"),
    ("no gradient of the routing itself", gradients("own"),
     "slope = routing * (slope + tl.sum(",
     "slope = routing * (tl.sum("),
    ("the routing before is the last", gradients("own"),
     "tl.store(coefficients_ptr + 2 * L + places, before,",
     "tl.store(coefficients_ptr + 2 * L + places, routing,"),
    ("the matrix's gradient by the history's vectors", gradients(),
     "_store_vector(vote_vectors_ptr + program * TERMS * D, gradient,",
     "_store_vector(vote_vectors_ptr + program * TERMS * D, along,"),
    ("the matrix's gradient with another term's rows", gradients(),
     "_store_vector(mixed_ptr + 2 * D, mixed,",
     "_store_vector(mixed_ptr + 2 * D, mixed_by_slope,"),
    ("only the terms of the first interest", gradients("own", through=False),
     "first = (user * tl.num_programs(1) + interest) * TERMS",
     "first = user * tl.num_programs(1) * TERMS"),
    ("terms are not added up", gradients(through=False),
     "gradients += coefficients[:, None]",
     "gradients = coefficients[:, None]"),
    ("rows past the end are written", GUARDED,
     "mask=(places < L)[:, None] & (dims < D)[None, :])",
     "mask=(dims < D)[None, :])"),
)  # fmt: skip

HOST = [
    *group(
        LAUNCH,
        ("interests that share rows have their own", routed("shared"),
         "rows.stride(1) * (rows.shape[1] > 1)",
         "rows.stride(1)"),
        ("logits of one are everybody's own", routed(),
         "logits.stride(0) * (len(logits) > 1)",
         "logits.stride(0)"),
        ("only the last users' gradient", gradients("own", through=False),
         "grad_weight += grad_votes.transpose(1, 2) @ seen",
         "grad_weight = grad_votes.transpose(1, 2) @ seen"),
        ("votes of all users at a time",
         f"{CAPSULES}votes_are_not_kept_and_nothing_waits_for_the_device[own-True]",
         "    if weight.ndim == 3:\n        size =",
         "    if weight.ndim == 4:\n        size ="),
    ),
    *group(
        OPERATION,
        ("padding reaches the matrix's gradient", padded("own"),
         "    if weight.ndim == 3:  # by",
         "    if weight.ndim == 4:  # by"),
        ("routing that has no gradient says it has",
         f"{CAPSULES}as_published_the_routing_is_constant[own-triton]",
         "weight, logits, routing)\n        if not through_routing:\n",
         "weight, logits, routing)\n        if through_routing:\n"),
    ),
]  # fmt: skip

MUTANTS = [*FORMULA, *NATIVE, *CPP, *BINDINGS, *FORWARD, *BACKWARD, *HOST]
