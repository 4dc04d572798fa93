"""Bugs in Adam on weights all of which move, as a device makes it."""

from .killers import MEMORY, group

KERNEL = "kernels/dense_adam_triton.py"
LAUNCH = "kernels/dense_adam_launch.py"
OPERATION = "kernels/dense_adam.py"
CLASS = "remi_fast/training/dense_adam.py"
DENSE = "tests/kernels/test_dense_adam.py::test_"
DEVICE = "tests/training/test_device_step.py::test_"

ERRORS = f"{DENSE}errs_no_more_than_twice_what_torch_does[1.0-betas0]"
SMALL = f"{DENSE}errs_no_more_than_twice_what_torch_does[1e-09-betas0]"
COUNTED = f"{DENSE}steps_are_counted"
HELD = f"{DENSE}nothing_is_changed_where_something_was_found[1.0-triton]"
EXTREMES = f"{DENSE}extreme_gradients"
GUARDED = f"{MEMORY}nothing_is_touched_beyond_a_tensor[dense]"

KERNELS = group(
    KERNEL,
    ("step sizes of the step before", ERRORS,
     "step_size_ptr + t)",
     "step_size_ptr + t - 1)"),
    ("no correction of the second moment", ERRORS,
     "correction = tl.load(correction_ptr + t)",
     "correction = 1.0"),
    ("a step is made though something was found", HELD,
     "tl.load(found_inf_ptr) == 0, t, 0)",
     "tl.load(found_inf_ptr) <= 1, t, 0)"),
    ("a step that is not made is counted", HELD,
     "mask=(t > 0) & (program == first)",
     "mask=program == first"),
    ("step sizes of a step that is not made", GUARDED,
     "tl.load(correction_ptr + t)",
     "tl.load(correction_ptr + tl.load(number_ptr) + 1)"),
    ("eps in the root", SMALL,
     "tl.sqrt_rn(exp_avg_sq) * correction + EPS",
     "tl.sqrt_rn(exp_avg_sq + EPS) * correction"),
    ("large gradients are squared first", EXTREMES,
     "REST2 * gradient * gradient",
     "REST2 * (gradient * gradient)"),
    ("no epsilon", EXTREMES,
     "correction + EPS",
     "correction"),
    ("an element past the last", GUARDED,
     "offsets, size) < size",
     "offsets, size) <= size"),
    ("the last element stands still", ERRORS,
     "offsets, size) < size",
     "offsets, size) < size - 1"),
    ("weights without elements have no program", f"{COUNTED}[triton]",
     "tl.maximum(tl.cdiv(size, BLOCK), 1)",
     "tl.cdiv(size, BLOCK)"),
    ("only the first weight", ERRORS,
     "for i in tl.static_range(TENSORS):",
     "for i in tl.static_range(1):"),
)  # fmt: skip

AROUND = [
    *group(LAUNCH,
           ("strides are not heeded", f"{DENSE}strided_gradients",
            "tuple(gradient.contiguous() for gradient in weights.gradient)",
            "tuple(weights.gradient)"),
           ("too few programs", ERRORS,
            "sum(max(1, triton.cdiv(size, _ELEMENTS)) for size in sizes)",
            "sum(triton.cdiv(size, _ELEMENTS) for size in sizes)")),
    *group(OPERATION,
           ("the reference counts from 0", f"{DENSE}the_reference_is_torch_s_formula",
            "step = int(number.item()) + 1",
            "step = max(1, int(number.item()))"),
           ("the reference makes a step that was found wanting",
            f"{DENSE}nothing_is_changed_where_something_was_found[1.0-reference]",
            "if found_inf is not None and bool(found_inf.item()):",
            "if False:"),
           ("strided weights are taken", f"{DENSE}what_does_not_fit",
            'if name != "gradient" and not',
            'if name == "weight" and not'),
           ("strided gradients go to C++", "tests/training/test_dense_adam.py::test_takes_what_cpp_"
            "cannot",
            " and x.is_contiguous() for x",
            " for x")),
    *group(CLASS,
           ("the moments are made anew", f"{DEVICE}the_same_bits_however_steps_are_cut[4-parts3]",
            "            if not self.state[x]:",
            "            if True:")),
]  # fmt: skip

MUTANTS = [*KERNELS, *AROUND]
