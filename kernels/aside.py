"""Launches beside others: a second stream on a GPU, also in a CUDA graph; in order elsewhere."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch


class Aside:
    """`with aside:` launches after all that was launched before, and beside what is launched next.

    What the block made has to be waited for with a `mark` before it is used, and to live until
    then; so has what it reads. Every block has to be waited for before a capture ends.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._context: Any = None

    def __enter__(self) -> Self:
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
            self._context = torch.cuda.stream(self._stream)
            self._context.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            self._context.__exit__(kind, error, traceback)

    def mark(self) -> Callable[[], None]:
        """A call lets what is launched after it wait for what the block has launched so far."""
        if self._stream is None:
            return lambda: None
        event = self._stream.record_event()
        return event.wait
