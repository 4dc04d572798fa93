"""Batches of the C++ loader on a device, some steps at a time: for data that do not fit a GPU."""

from collections.abc import Sequence

import torch
from torch import Tensor

from remi_fast.data.loader import Batch, BatchLoader
from remi_fast.kernels.device_batches import Buffers


class UploadedBatches:
    """The `DeviceBatches` of a DeviceStep, made by the host.

    Two parts of pinned memory take turns, so that the host fills one while the other is copied.
    """

    def __init__(self, loader: BatchLoader, device: torch.device) -> None:
        """loader: it is used up from the step that it is at."""
        self._loader, self._device = loader, device
        batch = loader.batch(0)
        self._shapes = [tensor.shape for tensor in batch[1:]]
        self._there = torch.empty(0, 0)
        self._parts: list[tuple[Tensor, list[Buffers]]] = []
        self._copied: list[torch.cuda.Event | None] = [None, None]

    def slots(self, count: int) -> list[Buffers]:
        """Memory for so many batches on the device, which `fill` fills; of padding until then."""
        sizes = [shape.numel() for shape in self._shapes]
        pinned = self._device.type == "cuda"

        def memory(device: torch.device | str, pin: bool) -> tuple[Tensor, list[Buffers]]:
            shape = count, sum(sizes)
            whole = torch.zeros(shape, dtype=torch.int32, device=device, pin_memory=pin)
            return whole, [self._batch_in(row.split(sizes)) for row in whole]

        self._there, slots = memory(self._device, False)
        self._parts = [memory("cpu", pinned) for _ in range(2)]
        return slots

    def _batch_in(self, parts: Sequence[Tensor]) -> Buffers:
        return Buffers(*(x.view(shape) for x, shape in zip(parts, self._shapes, strict=True)))

    def fill(self, first: int, count: int) -> None:
        """Let the first `count` slots have the batches from step `first` on, which is the next.

        Waits for the copy before the last one only. Raises ValueError for another step.
        """
        copied, self._copied = self._copied[0], self._copied[1:]
        if copied is not None:
            copied.synchronize()
        self._parts.reverse()
        whole, slots = self._parts[0]
        for step, slot in zip(range(first, first + count), slots, strict=False):
            batch = next(self._loader)
            if batch.step != step:
                raise ValueError(f"step: got {step}, expected {batch.step}, the loader's next one")
            for mine, its in zip(slot, batch[1:], strict=True):
                mine.copy_(its)
        self._there[:count].copy_(whole[:count], non_blocking=True)
        on_gpu = self._device.type == "cuda"
        self._copied.append(torch.cuda.current_stream().record_event() if on_gpu else None)

    def draw(self, step: Tensor, out: Buffers) -> Batch:
        """The batch that a slot holds: that of the step, if it was filled so."""
        return Batch(step, *out)

    def batch(self, step: int) -> Batch:
        """Batch `step`, in memory of its own on the device."""
        return Batch(step, *(tensor.to(self._device) for tensor in self._loader.batch(step)[1:]))

    def close(self) -> None:
        """Stop the loader's threads."""
        self._loader.close()
