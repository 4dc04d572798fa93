"""The packages that some formats need, and what to do where they are missing."""

from importlib import import_module
from typing import Any

from remi_fast.errors import ConfigError

# Of each format, what writing it imports. Reading ONNX needs onnxruntime alone.
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "faiss": ("faiss",)}
EXTRAS = {"onnx": "export", "faiss": "faiss"}


def require(format: str) -> None:
    """Raise ConfigError, saying what to do, unless the format can be written here."""
    for module in NEEDS.get(format, ()):
        load(format, module, f", or --formats without {format}")


def load(format: str, module: str, otherwise: str = "") -> Any:
    """A package of the format. Raises ConfigError, saying what to install or do otherwise."""
    try:
        return import_module(module)
    except Exception as error:  # a broken build of faiss raises what it likes
        raise ConfigError(
            f"format {format}: got no usable {module} ({error}), expected it from "
            f"`pip install 'remi-fast[{EXTRAS[format]}]'`{otherwise}"
        ) from None
