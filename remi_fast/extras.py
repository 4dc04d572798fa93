"""Packages that only some features need: imported where used, advice where they are missing."""

from importlib import import_module
from types import ModuleType

from remi_fast.errors import ConfigError


def load(module: str, extra: str, user: str) -> ModuleType:
    """Import `module` for `user`, who is named in the error.

    Raises ConfigError, saying how to install the extra, where the import fails in any way: a faiss
    without its CUDA libraries raises RuntimeError, a broken build OSError.
    """
    try:
        return import_module(module)
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{user} needs the package {module}, expected it from "
            f"`pip install 'remi-fast[{extra}]'`, got: {reason:.200}"
        ) from None
