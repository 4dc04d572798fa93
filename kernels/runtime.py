"""Where Triton runs: on a GPU, or in its interpreter. The only file that knows.

The interpreter (TRITON_INTERPRET=1 before the first import of triton) is for tests: it is never
chosen for a user.
"""

from typing import Any

import torch
import triton
import triton.language as tl

INTERPRET: bool = triton.knobs.runtime.interpret
_INTERPRET = tl.constexpr(INTERPRET)

# What tl.dot multiplies. The interpreter has no bfloat16 arithmetic: float32 stands in for it.
DOT_TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.float32 if INTERPRET else tl.bfloat16,
    torch.float16: tl.float16,
}


def can_run(device: torch.device) -> bool:
    """Whether a Triton kernel can work on tensors of this device."""
    return device.type == "cuda" or (INTERPRET and device.type == "cpu")


def has_warpgroups() -> bool:
    """Whether the tensor cores multiply 64 rows of four warps at a time (sm_90, sm_100), and not
    16 rows of one warp."""
    return INTERPRET or 90 <= triton.runtime.driver.active.get_current_target().arch < 120


def dot_precision(dtype: torch.dtype) -> str:
    """`input_precision` of tl.dot: what torch.set_float32_matmul_precision asks for.

    "highest" (torch's default) is three TF32 products, as exact as float32; "high" and "medium"
    are one.
    """
    if dtype != torch.float32:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums, losses and statistics of what is multiplied in `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def dot_types(dtype: torch.dtype) -> dict[str, Any]:
    """The kernels' names for what multiplies in `dtype`: operands, sums, and how."""
    return {
        "DOT": DOT_TYPES[dtype],
        "SUM": DOT_TYPES[sum_type(dtype)],
        "PRECISION": dot_precision(dtype),
    }


def dot_block(size: int) -> int:
    """The least block of `size` numbers that tl.dot multiplies."""
    return max(16, triton.next_power_of_2(size))


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run a kernel on the device of its tensors; every launch of the project comes through here."""
    first = next(x for x in arguments if isinstance(x, torch.Tensor))
    with torch.cuda.device_of(first):  # nothing happens for tensors on the CPU
        kernel[grid](*arguments, **options)


@triton.jit
def rounded(values, DTYPE: tl.constexpr):
    """`values` in DTYPE, to nearest even; the interpreter alone would cut bfloat16 off."""
    if _INTERPRET and tl.bfloat16 == DTYPE:
        bits = values.to(tl.float32).to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return values.to(DTYPE)
