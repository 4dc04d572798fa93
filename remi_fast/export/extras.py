"""The packages that some formats need, and what to do where they are missing."""

from importlib import import_module

from remi_fast.errors import ConfigError

# Of each format: what it imports, and the extra that has it.
NEEDS = {
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "export"),
    "faiss": (("faiss",), "faiss"),
}


def require(format: str) -> None:
    """Raise ConfigError, saying what to install, unless the format's packages can be imported."""
    modules, extra = NEEDS.get(format, ((), ""))
    for module in modules:
        try:
            import_module(module)
        except Exception as error:  # a broken build of faiss raises what it likes
            raise ConfigError(
                f"format {format}: got no usable {module} ({error}), expected it from "
                f"`pip install 'remi-fast[{extra}]'`, or --formats without {format}"
            ) from None
