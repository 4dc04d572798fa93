"""Adam on the weights of the extractor: they are few, and all move at every step."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from remi_fast.kernels.finite import all_finite
from remi_fast.kernels.native import C


class DenseAdam(torch.optim.Adam):
    """torch.optim.Adam with `step_if_finite`, which is one call into C++ on a CPU.

    State and state dict are torch's. Reference: torch's own step, which a CUDA graph can hold, and
    which heeds a `found_inf`, as of `GradScaler`. Native: float32 on the CPU, from the second step
    on; the first one makes the state.
    """

    found_inf: Tensor | None = None  # where it is not 0, `step` changes nothing

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, *, backend: str = "auto"
    ) -> None:
        """backend "reference" is torch's step; any other one is native where it can be.

        Raises ValueError as torch.optim.Adam does.
        """
        parameters = list(parameters)
        capturable = any(x.is_cuda for x in parameters)
        super().__init__(parameters, lr=lr, fused=True, capturable=capturable)
        self._parameters: list[Tensor] = self.param_groups[0]["params"]
        self._native_allowed = backend != "reference"
        self._native: C.DenseAdam | None = None
        self.register_load_state_dict_post_hook(lambda _: self._forget_native())

    def step_if_finite(self) -> bool:
        """One step, if weights, their gradients and moments are finite.

        Returns False, and has changed nothing, where one is infinite or NaN. A GPU is waited for.
        """
        gradients = [x.grad for x in self._parameters if x.grad is not None]
        if (
            self._native_allowed
            and len(gradients) == len(self.state) == len(self._parameters)
            and _can_take(gradients)
        ):
            self._native = self._native or self._view()
            return self._native.step(
                self.param_groups[0]["lr"], [gradient.numpy() for gradient in gradients]
            )
        moments = [x[name] for x in self.state.values() for name in ("exp_avg", "exp_avg_sq")]
        if not all_finite([*gradients, *moments, *self._parameters]):
            return False
        self.step()
        return True

    def _view(self) -> "C.DenseAdam":
        """The C++ view of weights and state, which are updated in place."""
        state = [self.state[x] for x in self._parameters]
        arrays = [[x[name].numpy() for x in state] for name in ("exp_avg", "exp_avg_sq", "step")]
        group: dict[str, Any] = self.param_groups[0]
        weights = [x.detach().numpy() for x in self._parameters]
        return C.DenseAdam(weights, *arrays, *group["betas"], group["eps"])

    def _forget_native(self) -> None:
        self._native = None


def _can_take(tensors: Sequence[Tensor]) -> bool:
    return all(x.is_cpu and x.dtype == torch.float32 and x.is_contiguous() for x in tensors)
