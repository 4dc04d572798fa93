"""Launches beside others: a second stream on a GPU, also in a CUDA graph; in order elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch


class SideStream:
    """A second stream of launches on a device.

    What a block of `launches` made has to be waited for with a `mark` before it is used, and to
    live until then; so has what it reads. Every block has to be waited for before a capture ends.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def launches(self) -> Iterator[None]:
        """What is launched here comes after all that was launched before, and runs beside what is
        launched after the block."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield

    def mark(self) -> Callable[[], None]:
        """A call lets what is launched after it wait for what was launched here so far."""
        if self._stream is None:
            return lambda: None
        event, device = self._stream.record_event(), self._stream.device
        return lambda: torch.cuda.current_stream(device).wait_event(event)


@cache
def side_stream(device: torch.device) -> SideStream:
    """The one of a device that is for the insides of operations: there, blocks do not nest."""
    return SideStream(device)
