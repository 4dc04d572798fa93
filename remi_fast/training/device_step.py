"""Training steps that need no host: batch, negatives, losses, gradients and updates on the device.

On a GPU several steps are one CUDA graph, captured once. Anywhere else, and for the steps that are
fewer than a graph's, the same function launches the same kernels one by one, with the same bits.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from remi_fast.data.loader import Batch
from remi_fast.kernels.device_batches import Buffers
from remi_fast.kernels.side_stream import SideStream
from remi_fast.kernels.step_guard import StepGuard, StepMade, look
from remi_fast.losses import rr_weight
from remi_fast.training.step import Prepared, StepLoss, TrainingStep

STEPS_A_REPLAY = 20  # divides the steps between two log lines
_READ_AT_ONCE = 1000  # steps whose losses are kept on the device, until the host reads them


class DeviceBatches(Protocol):
    """Where the batches of a DeviceStep come from, on the device of its model."""

    def slots(self, count: int) -> list[Buffers]:
        """Memory for so many batches, which a graph holds."""

    def fill(self, first: int, count: int) -> None:
        """What the host has to do before the steps first..first + count - 1, the next ones, are
        launched: make their batches, and start the copy of each to its slot. Nothing where `draw`
        makes them on the device."""

    def draw(self, step: Tensor, out: Buffers) -> Batch:
        """The batch of the step whose number is on the device, in its slot; waits for nothing."""

    def batch(self, step: int) -> Batch:
        """Batch `step`, in memory of its own."""

    def close(self) -> None:
        """No batch is made any more."""


class DeviceStep:
    """Makes the steps of a TrainingStep whose model is on the device, from the step it is at.

    A guard looks at every step there. The host looks when it reads the losses; what is not finite
    has changed nothing by then, however many steps were launched after it.
    """

    def __init__(
        self,
        training_step: TrainingStep,
        batches: DeviceBatches,
        *,
        steps_a_replay: int = STEPS_A_REPLAY,
    ) -> None:
        """batches: on the device of the model."""
        self._made_of, self._batches = training_step, batches
        self._loss = training_step.config.loss
        self._optimizer = training_step.table_optimizer
        self._optimizer.reserve(training_step.config.train.steps)  # a graph reads it where it is
        self._number = self._optimizer.step_on_device
        self._guard = StepGuard(_READ_AT_ONCE, self._number.device)
        self._optimizer.use_guard(self._guard)
        self._ahead, self._beside = (SideStream(self._number.device) for _ in range(2))
        self._steps_a_replay = steps_a_replay
        self._offsets = torch.arange(steps_a_replay, device=self._number.device)
        self._slots = batches.slots(steps_a_replay)
        self._replay: Callable[[], None] | None = None

    def advance(self, most: int) -> list[StepLoss]:
        """Make `most` steps, or as many as are read at once; their losses.

        Raises NonFiniteError, naming step, tensor and row, where something is infinite or NaN:
        nothing was updated from that step on.
        """
        first, count = self._optimizer.steps_taken, min(most, _READ_AT_ONCE)
        growing = min(count, max(0, self._loss.beta_warmup - first))  # steps of another beta each
        self._optimizer.schedule_steps([])  # the device is at the step that the host is at
        self._made_of.dense_optimizer.make_state()
        if self._replay is None and count - growing >= self._steps_a_replay:
            self._replay = self._recorded()
        step, end = first, first + count
        while step < end:
            if self._replay and step >= first + growing and end - step >= self._steps_a_replay:
                self._make_ready(step, self._steps_a_replay)
                self._replay()
                step += self._steps_a_replay
            else:
                self._make_ready(step, 1)
                self._launch_several(1, self._loss.beta_at(step))
                step += 1
        found, losses = self._guard.read(first, count)
        if found:
            self._explain()
        return [StepLoss(*means) for means in losses]

    def _make_ready(self, step: int, count: int) -> None:
        """What the host has to do for steps: while the device makes those before them."""
        self._optimizer.schedule_steps([self._made_of.rate(n) for n in range(step, step + count)])
        self._batches.fill(step, count)

    def close(self) -> None:
        """Free what a graph holds, and stop the batches."""
        self._replay = None
        self._batches.close()

    def _prepare(self, number: Tensor, into: Buffers) -> Prepared:
        batch = self._batches.draw(number, into)
        return self._made_of.prepare(number, batch.history, batch.length, batch.target)

    def _launch(self, number: Tensor, batch: Prepared, beta: float) -> None:
        """One step, whose number is on the device: no value of any tensor is read here.

        number: a copy of that, for what runs beside the counting of the step.
        """
        made_of, guard = self._made_of, self._guard
        ranking, rr = made_of.forward(self._number, batch, beta=beta)
        made_of.backward(ranking, rr)
        rows = self._optimizer.collect()
        assert rows is not None
        dense = [x.grad for x in made_of.model.extractor.parameters() if x.grad is not None]
        dense += made_of.lasting_tensors().values()
        made = StepMade(
            ranking.detach(),
            None if rr is None else rr.detach(),
            rows.rows.ids,
            rows.gradients,
            dense,
        )
        with self._beside.launches():
            look(
                guard,
                self._number,
                made,
                self._optimizer.rows_state,
                rr_weight=rr_weight(self._loss.rr_lambda),
                backend="triton",
            )
            looked = self._beside.mark()
            steps, found_inf = self._optimizer.step_table, guard.found_inf
            made_of.dense_optimizer.step_unwatched(number, steps, found_inf)
            updated = self._beside.mark()
        carried = self._optimizer.carry(rows)
        looked()
        self._optimizer.apply(rows, carried)
        updated()
        made_of.dense_optimizer.zero_grad()

    def _launch_several(self, steps: int, beta: float) -> None:
        """Steps of one beta; what they read is prepared beside those before them."""
        numbers = (self._number + self._offsets[:steps]).split(1)
        prepared = []
        with self._ahead.launches():
            for number, slot in zip(numbers, self._slots, strict=False):
                prepared.append((number, self._prepare(number, slot), self._ahead.mark()))
        for number, batch, is_there in prepared:  # all of them live until all steps are launched
            is_there()
            self._launch(number, batch, beta)

    def _recorded(self) -> Callable[[], None]:
        """What launches `steps_a_replay` steps of the full beta at once.

        The guard is held meanwhile: nothing is updated, and the step stays the same.
        """
        self._guard.hold(True)
        if self._number.is_cuda:
            replay = self._captured().replay
        else:
            replay = partial(self._launch_several, self._steps_a_replay, self._loss.beta)
            replay()  # as `_captured` does it
        self._guard.hold(False)
        return replay

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The same steps are made once before: kernels are compiled for arguments like theirs."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._launch_several(self._steps_a_replay, self._loss.beta)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._launch_several(self._steps_a_replay, self._loss.beta)
        return graph

    def _explain(self) -> None:
        """Raise the NonFiniteError of the step that the guard held."""
        step = int(self._number.item())
        self._guard.hold(False)
        self._optimizer.rewind(step)
        batch = self._batches.batch(step)
        self._made_of.explain(step, batch.history, batch.length, batch.target)
