"""Where Triton's kernels are tested: on the GPU if there is one, else in the interpreter."""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
