"""Adam on the weights of the extractor: they are few, and all move at every step."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from remi_fast.kernels import dense_adam as kernel
from remi_fast.kernels.deferred_adam_state import StepTable
from remi_fast.kernels.finite import all_finite

_STATE = "exp_avg", "exp_avg_sq", "step"  # of a weight, as torch calls it


class DenseAdam(torch.optim.Adam):
    """torch.optim.Adam with `step_if_finite`, which is one call into C++ on a CPU, and with
    `step_unwatched`, which is one Triton kernel on a GPU.

    State and state dict are torch's. Reference: torch's own step. Native: float32 on the CPU, from
    the second step on; the first one makes the state.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, *, backend: str = "auto"
    ) -> None:
        """backend "reference" is torch's step; any other one is native where it can be.

        Raises ValueError as torch.optim.Adam does.
        """
        super().__init__(parameters, lr=lr, fused=True)
        self._parameters: list[Tensor] = self.param_groups[0]["params"]
        self._native_allowed = backend != "reference"
        self._native: kernel.NativeAdam | None = None
        self.register_load_state_dict_post_hook(lambda _: self._forget_native())

    def step_if_finite(self) -> bool:
        """One step, if weights, their gradients and moments are finite.

        Returns False, and has changed nothing, where one is infinite or NaN. A GPU is waited for.
        """
        gradients = [x.grad for x in self._parameters if x.grad is not None]
        if (
            self._native_allowed
            and len(gradients) == len(self.state) == len(self._parameters)
            and kernel.NativeAdam.can_take(gradients)
        ):
            self._native = self._native or self._view()
            return self._native.step_if_finite(self.param_groups[0]["lr"], gradients)
        moments = [x[name] for x in self.state.values() for name in _STATE[:2]]
        if not all_finite([*gradients, *moments, *self._parameters]):
            return False
        self.step()
        return True

    def make_state(self) -> None:
        """What torch makes of a weight in its first step: zeros."""
        for x in self._parameters:
            if not self.state[x]:
                step = torch.zeros((), device=x.device)
                moments = {name: torch.zeros_like(x) for name in _STATE[:2]}
                self.state[x] = {"step": step} | moments

    @torch.no_grad()
    def step_unwatched(self, number: Tensor, steps: StepTable, found_inf: Tensor) -> None:
        """Step `number`, from 0, with the sizes of `steps`, unless `found_inf` is not 0.

        After `make_state`; nothing is waited for. See `kernels.dense_adam.update`.
        """
        weights = [x for x in self._parameters if x.grad is not None]
        state = [[self.state[x][name] for x in weights] for name in _STATE]
        gradients = [x.grad for x in weights if x.grad is not None]
        kernel.update(
            kernel.DenseWeights(weights, gradients, *state),
            steps,
            number,
            found_inf=found_inf,
            backend="triton",
        )

    def _view(self) -> kernel.NativeAdam:
        """The C++ view of weights and state, which are updated in place."""
        state = [[self.state[x][name] for x in self._parameters] for name in _STATE]
        group: dict[str, Any] = self.param_groups[0]
        return kernel.NativeAdam(self._parameters, *state, betas=group["betas"], eps=group["eps"])

    def _forget_native(self) -> None:
        self._native = None
