"""Training batches drawn on the device: those of `BatchLoader`, bit for bit, without the host."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from remi_fast.data.loader import MIN_HISTORY, Batch, Sampling, make_sampler
from remi_fast.kernels.device_batches import Buffers, Sequences, draw_batch
from remi_fast.kernels.philox import check_word


class DeviceBatchLoader:
    """Iterator over the batches start_step, start_step + 1, ... without end; a context manager.

    The arguments, the errors and the batches are those of `BatchLoader`, but the tensors are on
    `device`, where a copy of the data takes `kernels.device_batches.device_bytes`; there are no
    threads, and every batch of iterating has memory of its own.

    backend: of `kernels.device_batches.draw_batch`.
    """

    def __init__(
        self,
        items: npt.NDArray[np.int32],
        users: npt.NDArray[np.int32],
        spans: npt.NDArray[np.int64],
        *,
        batch_size: int,
        max_history: int,
        seed: int,
        device: torch.device | str,
        sampling: Sampling = "uniform",
        min_history: int = MIN_HISTORY,
        start_step: int = 0,
        backend: str = "auto",
    ) -> None:
        check_word("start_step", start_step)
        sampler = make_sampler(
            items,
            users,
            spans,
            batch_size=batch_size,
            max_history=max_history,
            seed=seed,
            sampling=sampling,
            min_history=min_history,
        )
        self._with_replacement: bool = sampler.with_replacement
        self._skipped = len(users) - sampler.num_users
        self._sequences = Sequences.upload(
            items, users, spans, min_history=min_history, device=device
        )
        self._seed, self._every_target_once = seed, sampling == "epoch"
        self._shape, self._backend = (batch_size, max_history), backend
        self._drawn = self.buffers()
        self._next, self._closed = start_step, False

    def _draw(self, step: int | Tensor, out: Buffers) -> Batch:
        draw_batch(
            self._sequences,
            out,
            seed=self._seed,
            step=step,
            every_target_once=self._every_target_once,
            backend=self._backend,
        )
        return Batch(step, *out)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._closed:
            raise RuntimeError("the batch loader is closed")
        if self._next >= 2**32:
            raise ValueError(f"step {self._next} is beyond the last one, 2^32 - 1")
        batch = self._draw(self._next, self.buffers())
        self._next += 1
        return batch

    def batch(self, step: int) -> Batch:
        """Batch `step`, the same bits as from iterating; works when closed.

        Raises ValueError unless step is in [0, 2^32).
        """
        check_word("step", step)
        return self._draw(step, self.buffers())

    def buffers(self) -> Buffers:
        """Memory for a batch."""
        return Buffers.empty(*self._shape, self._sequences.items.device)

    def slots(self, count: int) -> list[Buffers]:
        """Memory for so many batches, for `draw`."""
        return [self.buffers() for _ in range(count)]

    def fill(self, first: int, count: int) -> None:
        """Nothing: `draw` makes the batches."""

    def draw(self, step: Tensor, out: Buffers | None = None) -> Batch:
        """The batch of the step that a tensor of one int64 on the device holds; works when closed.

        The tensors are `out`, or else the same ones in every call, which the next call overwrites.
        A call takes no memory and waits for nothing: a CUDA graph that holds it draws, in every
        replay, the batch of the step that is there by then. Call it once before a capture: that
        compiles it.
        The step has to be in [0, 2^32), and with sampling="epoch" its epoch, too; who counts the
        steps checks it.
        """
        return self._draw(step, self._drawn if out is None else out)

    @property
    def num_users(self) -> int:
        """Eligible users: those with more than min_history items."""
        return len(self._sequences.user)

    @property
    def skipped_users(self) -> int:
        """Users that are not eligible."""
        return self._skipped

    @property
    def with_replacement(self) -> bool:
        """Whether a batch may hold a user twice: "uniform" with fewer eligible users than B."""
        return self._with_replacement

    def close(self) -> None:
        """Iterating further raises RuntimeError. May be called more than once."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
