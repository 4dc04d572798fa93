"""What physics allows the loss on an H100 or H200: the time of its products and exponentials.

Rates in operations a second: products as measured on an H200 by torch (bf16) and their usual
fractions, exponentials as published for the H100 (FlashAttention-3). Memory is left out: nothing of
size B x N is read or written.
"""

from bench.loss_contestants import Size

PRODUCTS = {"bfloat16": 788e12, "tf32": 394e12, "float32": 131e12}  # float32 as three tf32
EXPONENTIALS = 3.9e12
PRODUCTS_OF = {"remi-fast": 5, "remi-fast, plain": 4}  # of 2 B N d operations each


def loss_us(size: Size, precision: str, name: str) -> float:
    """Microseconds of forward and backward, one exponential a score in each."""
    pairs = size.batch * size.negatives
    products = PRODUCTS_OF[name] * 2 * pairs * size.dim / PRODUCTS[precision]
    return 1e6 * max(products, 2 * pairs / EXPONENTIALS)
