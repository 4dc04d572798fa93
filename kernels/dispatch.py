"""Which implementation of an operation runs: `backend` is a name, never a silent fallback."""

from collections.abc import Callable, Mapping
from typing import Any


def choose(
    operation: str, backend: str, implementations: Mapping[str, Callable[..., Any]]
) -> Callable[..., Any]:
    """The implementation called `backend`; "auto" is the first one, the fastest.

    Raises ValueError for a name that this operation does not have.
    """
    if backend == "auto":
        return next(iter(implementations.values()))
    if backend not in implementations:
        raise ValueError(
            f"{operation}: got backend {backend!r}, expected one of: "
            f"auto, {', '.join(implementations)}"
        )
    return implementations[backend]
