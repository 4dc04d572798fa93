"""DeferredAdam: dense Adam on an item table, at the cost of the rows that are touched."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remi_fast.errors import NonFiniteError
from remi_fast.kernels import deferred_adam as kernel
from remi_fast.kernels.checks import check_ids, check_tensor
from remi_fast.kernels.deferred_adam_state import DeviceSteps
from remi_fast.kernels.finite import all_finite, first_non_finite, joined
from remi_fast.kernels.memory import table_zeros
from remi_fast.kernels.step_guard import StepGuard
from remi_fast.models.item_table import ItemTable


class RowGradients(NamedTuple):
    """What a step uses: rows (n ids), gradients (n, d), one an occurrence of an id, and whether all
    of them are finite, also those of padding (on a GPU nobody looks, and it is True)."""

    rows: kernel.GatheredRows
    gradients: Tensor
    finite: bool


class DeferredAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, 2015) on an ItemTable, exactly as if every row were updated each step.

    torch.optim.Adam moves every row at every step, also rows whose gradient is 0, because their
    moments decay slowly. Here those moves are made up for just before a row is read, so a step
    costs the rows it touches, whatever the size of the table. The result differs from float64
    Adam by no more than torch's own float32 Adam does (tests/test_optim.py).

    Use it beside the optimizer of the other parameters:

        optimizer = DeferredAdam(table, lr=1e-3)
        rows = table(ids)              # up to date; gradients are collected
        loss(rows).backward()
        optimizer.step(); optimizer.zero_grad()

    `param_groups[0]["lr"]` may change between steps (learning-rate schedulers work). Several
    gathers before one step are summed. Looking never changes state: `table.read`, `table.rows`,
    and `table(ids)` under `torch.no_grad()` return up-to-date copies.

    The rows gathered since `zero_grad` are parameters of the optimizer's one group, behind
    `table.weight`, so that clipping and `torch.amp.GradScaler` find their gradients, one an
    occurrence of an id. Dense Adam would see the sum of each row: for its norm, merge them first.

        scaler.unscale_(optimizer)     # with a GradScaler
        optimizer.merge_gradients()
        clip_grad_norm_([*optimizer.param_groups[0]["params"], *model.parameters()], 1.0)
        scaler.step(optimizer)         # a step that it skips has changed nothing; call zero_grad

    docs/deferred_adam_example.py is a whole loop.
    """

    def __init__(
        self,
        table: ItemTable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        backend: str = "auto",
    ) -> None:
        """Attach to `table`. Raises TypeError if it is no ItemTable, and ValueError for values
        outside 0 <= lr < inf, 0 <= beta1 < 1, 0 < beta2 < 1, eps > 0, weight_decay 0, or a table
        that has an optimizer already."""
        if not isinstance(table, ItemTable):
            raise TypeError(f"table: got {type(table).__name__}, expected an ItemTable")
        beta1, beta2 = betas
        if not (0 <= lr < math.inf and 0 <= beta1 < 1 and 0 < beta2 < 1 and 0 < eps < math.inf):
            raise ValueError(
                f"got lr {lr}, betas {betas}, eps {eps}; "
                "expected lr >= 0, 0 <= beta1 < 1, 0 < beta2 < 1, eps > 0, all finite"
            )
        if weight_decay != 0:
            raise ValueError(
                f"weight_decay: got {weight_decay}, expected 0: decay shrinks every row at every "
                "step, between the moves that are made up for in one sum, so it would not be exact"
            )
        if table.source is not None:
            raise ValueError("table: it has a DeferredAdam already, expected one per table")
        super().__init__([table.weight], {"lr": lr, "betas": betas, "eps": eps})
        weight, exp_avg, exp_avg_sq = table.with_moments()
        stamp = table_zeros(len(weight), dtype=torch.int32, device=weight.device)
        self._adam = kernel.AdamState(weight, exp_avg, exp_avg_sq, stamp)
        self._steps = kernel.StepTable(betas[0], betas[1], eps)
        self._backend = backend
        self._guard: StepGuard | None = None
        self._gathered: list[tuple[kernel.GatheredRows, list[Tensor]]] = []
        table.source = self

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises ValueError after construction: an optimizer is of the rows of one table. Other
        parameters have an optimizer of their own."""
        if self.param_groups:
            raise ValueError(
                "add_param_group: got another group, expected none: a DeferredAdam is of the rows "
                "of one table; give other parameters an optimizer of their own"
            )
        super().add_param_group(param_group)

    @property
    def steps_taken(self) -> int:
        """Number of steps so far."""
        return self._steps.step

    def reserve(self, steps: int) -> None:
        """Take the memory of the step sizes of so many steps now: 24 bytes each, 44 on a CPU.

        Without it the memory grows with the steps.
        """
        self._steps.reserve(steps)

    def _forget(self) -> None:
        self._gathered.clear()
        del self.param_groups[0]["params"][1:]

    def gather(self, ids: Tensor) -> Tensor:
        """Up-to-date rows of `ids` (n,): (n, d), a leaf whose gradient `step` will use.

        Raises as `gather_each`.
        """
        return self.gather_each([ids])[0]

    def group(self, ids: Sequence[Tensor]) -> kernel.GatheredRows:
        """The rows of all `ids` (any shapes), for `gather_each`; it depends on no step."""
        flat = [each.reshape(-1) for each in ids]
        return kernel.GatheredRows(
            flat[0] if len(flat) == 1 else torch.cat(flat), len(self._adam.weight)
        )

    def gather_each(
        self, ids: Sequence[Tensor], rows: kernel.GatheredRows | None = None
    ) -> list[Tensor]:
        """Up-to-date rows of each of the `ids` (n_i,): (n_i, d), leaves whose gradients `step` will
        use; each row is caught up and updated once, however many of them it is in.

        rows: what `group` made of these ids, if that was done before.

        Raises IndexError naming the first id outside [0, I) (on the CPU), TypeError for ids of
        another dtype, ValueError for ids on another device, and NonFiniteError naming row and
        moment where one is infinite or NaN (on the CPU).
        """
        for each in ids:
            check_ids("ids", each, self._adam.weight.device)
        rows = self.group(ids) if rows is None else rows
        with torch.no_grad(), self._naming_the_step():
            values = kernel.gather(
                self._adam,
                self._steps,
                rows,
                check_moments=True,
                found_inf=None if self._guard is None else self._guard.found_inf,
                backend=self._backend,
            )
            leaves = list(values.split([each.numel() for each in ids]))
        for leaf in leaves:
            leaf.requires_grad_()
        self._gathered.append((rows, leaves))
        self.param_groups[0]["params"].extend(leaves)
        return leaves

    def read(self, ids: Tensor) -> Tensor:
        """Up-to-date copies of the rows `ids` (n,): (n, d); changes nothing. Raises as `gather`."""
        check_ids("ids", ids, self._adam.weight.device)
        with torch.no_grad():
            ids = ids.flatten().to(torch.int64).contiguous()
            return kernel.read(self._adam, self._steps, ids, backend=self._backend)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One Adam step with the gradients of all rows gathered since `zero_grad`.

        Raises NonFiniteError as `check_gradients`, and otherwise as `apply`; nothing is changed
        then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        used = self.collect()
        self._check(used)
        self.apply(used)
        return loss

    @torch.no_grad()
    def collect(self) -> RowGradients | None:
        """The gradients of all rows gathered since `zero_grad`; None where no row got one.

        The rows of a gather that got none in some part have zeros there.
        """
        used = self._used()
        if not used:
            return None
        rows = used[0][0]
        if len(used) > 1:
            ids = torch.cat([each.ids for each, _ in used])
            rows = kernel.GatheredRows(ids, rows.num_rows)
        leaves = [leaf for _, leaves in used for leaf in leaves]
        parts = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        return RowGradients(rows, *joined(parts))

    @torch.no_grad()
    def carry(self, used: RowGradients) -> Tensor | None:
        """The part of `apply` that no guard has to have looked at before."""
        return kernel.carry(self._adam, used.rows, used.gradients, backend=self._backend)

    @torch.no_grad()
    def apply(self, used: RowGradients | None, carried: Tensor | None = None) -> None:
        """One Adam step with what `collect` returned, finite or not; then those rows are forgotten.

        carried: what `carry` returned, if that was called before.
        Raises ValueError, before anything is changed, for a learning rate that is not a finite
        number >= 0.
        """
        guard = self._guard
        if guard is None:
            self._steps.advance(self._rate())
        else:
            self._device_steps.bump(guard.increment)
        if used is not None:
            kernel.update(
                self._adam,
                self._steps,
                used.rows,
                used.gradients,
                found_inf=None if guard is None else guard.found_inf,
                carried=carried,
                backend=self._backend,
            )
        self._forget()

    def _rate(self) -> float:
        rate = float(self.param_groups[0]["lr"])
        _check_rate("param_groups[0]['lr']", rate)
        return rate

    def use_guard(self, guard: StepGuard) -> None:
        """Let `guard` decide, on the device, whether anything changes: while it is held, rows are
        gathered as they are, and `apply` makes no step. The steps are those of `schedule_steps`.
        """
        self._guard = guard

    @property
    def rows_state(self) -> kernel.AdamState:
        """The table with its moments and stamps, as the kernels take it."""
        return self._adam

    @property
    def step_table(self) -> kernel.StepTable:
        """The sizes of all steps, as the kernels take them."""
        return self._steps

    @property
    def _device_steps(self) -> DeviceSteps:
        return self._steps.on(self._adam.weight.device)

    @property
    def step_on_device(self) -> Tensor:
        """`steps_taken` as it is on the device: int64 (1,), always the same tensor."""
        return self._device_steps.step

    def schedule_steps(self, rates: Sequence[float]) -> None:
        """Count the coming steps, of these learning rates, each of which `apply` makes by a guard.

        The device learns their sizes, and nothing is waited for: a CUDA graph of the steps may be
        replayed next. Raises ValueError, before anything is counted, for a rate that is not a
        finite number >= 0.
        """
        for rate in rates:
            _check_rate("rates", rate)
        on_device = self._device_steps
        for rate in rates:
            self._steps.advance(rate)
        on_device.write()

    def rewind(self, step: int) -> None:
        """Be at `step` again: those scheduled after it were held and changed nothing."""
        self._steps.rewind(step)
        self._forget()

    def check_rows(self) -> None:
        """Raise NonFiniteError, naming the row, where one gathered since `zero_grad` is not finite.

        For what is infinite or NaN elsewhere: was it the table? Not needed before `step`.
        """
        with self._naming_the_step():
            for rows, _ in self._gathered:
                kernel.check_finite(self._adam, rows.ids)

    @contextmanager
    def _naming_the_step(self) -> Iterator[None]:
        try:
            yield
        except FloatingPointError as error:
            raise NonFiniteError(
                f"step {self.steps_taken}: item table: {error}; nothing was updated"
            ) from None

    def check_gradients(self) -> None:
        """Raise NonFiniteError, naming the row, where a gradient of one gathered since `zero_grad`
        is infinite or NaN: rows that are not finite themselves first. A GPU is waited for.
        """
        used = self.collect()
        self._check(None if used is None else used._replace(finite=False))

    def _check(self, used: RowGradients | None) -> None:
        if used is None or used.finite:
            return
        not_padding = used.rows.ids != 0  # of padding nothing is used
        if all_finite([used.gradients[not_padding]]):
            return
        self.check_rows()
        found = first_non_finite(used.gradients.where(not_padding[:, None], 0))
        assert found is not None
        (occurrence, column), value = found
        raise NonFiniteError(
            f"step {self.steps_taken}: item table: gradient of row "
            f"{int(used.rows.ids[occurrence])}: got {value} in column {column}, "
            "expected finite numbers; nothing was updated"
        )

    @torch.no_grad()
    def merge_gradients(self) -> None:
        """Sum the gradients of each row, over all gathers since `zero_grad`.

        The sum is left at the row's first occurrence, zeros at the others and at padding: the norm
        of the gradients is then that of dense Adam's. `step` does the same with it and without.
        """
        used = self.collect()
        if used is None:
            return
        ids = used.rows.ids
        merged = _sum_at_first(ids, used.gradients)
        merged[(ids <= 0) | (ids >= len(self._adam.weight))] = 0
        leaves = [leaf for _, leaves in self._used() for leaf in leaves]
        for leaf, gradient in zip(leaves, merged.split([len(x) for x in leaves]), strict=True):
            leaf.grad = gradient

    def _used(self) -> list[tuple[kernel.GatheredRows, list[Tensor]]]:
        """The gathers that got a gradient."""
        return [
            (rows, leaves)
            for rows, leaves in self._gathered
            if any(leaf.grad is not None for leaf in leaves)
        ]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the rows gathered since the last step, and their gradients."""
        self._forget()

    @torch.no_grad()
    def flush(self) -> None:
        """Bring every row of `table.weight` up to date, in place."""
        kernel.flush(self._adam, self._steps, backend=self._backend)

    def state_dict(self) -> dict[str, Any]:
        """Moments, stamps and steps, as they are (no copies); the weight is the table's own.

        Load it together with the `table.weight` of the same moment, or call `flush()` first. The
        tensors go to safetensors, the rest to JSON: no pickle is needed. `lr_runs` is one of the
        tensors where a schedule has many different rates: float64 (step,).
        """
        group = self.param_groups[0]
        return {
            "exp_avg": self._adam.exp_avg,
            "exp_avg_sq": self._adam.exp_avg_sq,
            "stamp": self._adam.stamp,
            "step": self._steps.step,
            "lr_runs": self._steps.rates,
            "lr": group["lr"],
            "betas": list(group["betas"]),
            "eps": group["eps"],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises ValueError, before anything is changed, for other keys, shapes, betas or eps, for
        steps and rates that are none, and for stamps outside [0, step].
        """
        if missing := set(self.state_dict()) - set(state_dict):
            raise ValueError(
                f"state_dict: got keys {sorted(state_dict)}, expected {sorted(missing)}, too"
            )
        check_steps(state_dict)
        betas, eps = self.param_groups[0]["betas"], self.param_groups[0]["eps"]
        if tuple(state_dict["betas"]) != tuple(betas) or state_dict["eps"] != eps:
            raise ValueError(
                f"state_dict: got betas {state_dict['betas']}, eps {state_dict['eps']}; "
                f"expected {betas}, {eps} as this optimizer was made with"
            )
        for name in ("exp_avg", "exp_avg_sq", "stamp"):
            mine: Tensor = getattr(self._adam, name)
            check_tensor(f"state_dict[{name!r}]", state_dict[name])
            if state_dict[name].shape != mine.shape:
                raise ValueError(
                    f"state_dict[{name!r}]: got shape {tuple(state_dict[name].shape)}, "
                    f"expected {tuple(mine.shape)}"
                )
        low, high = (int(end) for end in state_dict["stamp"].aminmax())
        if low < 0 or high > state_dict["step"]:
            raise ValueError(
                f"state_dict['stamp']: got {low} to {high}, "
                f"expected 0 to {state_dict['step']}, the step of the state"
            )
        for name in ("exp_avg", "exp_avg_sq", "stamp"):
            getattr(self._adam, name).copy_(state_dict[name])
        self._forget()
        self._steps.restore(state_dict["step"], state_dict["lr_runs"])
        self.param_groups[0]["lr"] = state_dict["lr"]


def check_steps(numbers: Mapping[str, Any]) -> None:
    """Raise ValueError unless a `state_dict` has a step, and the rates of all steps up to it.

    `lr_runs` are the first step and the rate of ascending runs of steps, from step 1, or float64
    (step,), one a step.
    """
    try:
        step, rates = numbers["step"], numbers["lr_runs"]
        if isinstance(rates, Tensor):
            check_tensor("lr_runs", rates)
            valid = rates.dtype == torch.float64 and rates.shape == (step,)
            valid &= bool(((rates >= 0) & (rates < math.inf)).all())
            edges = [0, step + 1]
        else:
            valid = all(0 <= rate < math.inf for _, rate in rates)
            edges = [0, *(first for first, _ in rates), step + 1]
            valid &= step == 0 or edges[1] == 1
        valid &= 0 <= numbers["lr"] < math.inf
        valid &= all(type(edge) is int for edge in edges)
        valid &= all(start < end for start, end in pairwise(edges))
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        got = {name: numbers.get(name) for name in ("step", "lr_runs", "lr")}
        text = " ".join(repr(got).split())  # a tensor has several lines
        raise ValueError(
            f"state_dict: got {text:.200}, expected a number of steps, a rate, and the first "
            "step and the rate of ascending runs of them from step 1, or float64 rates, one a step"
        )


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate < math.inf:
        raise ValueError(f"{name}: got {rate}, expected a finite number >= 0; nothing was updated")


def _sum_at_first(ids: Tensor, gradients: Tensor) -> Tensor:
    """gradients (n, d), those of equal ids summed at the first of them and 0 at the others.

    In the order of occurrence, without atomics, and without waiting for a device.
    """
    in_order, order = ids.sort(stable=True)
    first = torch.ones_like(in_order, dtype=torch.bool)
    first[1:] = in_order[1:] != in_order[:-1]
    row = first.cumsum(0) - 1
    lengths = torch.zeros_like(in_order).scatter_add_(0, row, torch.ones_like(in_order))
    sums = torch.segment_reduce(
        gradients[order], "sum", lengths=lengths, axis=0, unsafe=True, initial=0
    )
    merged = torch.empty_like(sums)
    merged[order] = sums[row].where(first[:, None], 0)
    return merged
