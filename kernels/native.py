"""The one importer of the C++ extension `_remi_fast_C`; everybody else goes through this file."""

try:
    import _remi_fast_C as C
except ImportError as error:  # a checkout whose extension was never built, or for another Python
    raise ImportError(
        "the C++ extension of remi-fast is not built for this Python: "
        "run `pip install -e .` in the checkout (or `make train`)"
    ) from error

_EXPECTED_INTERFACE = 12
if C.INTERFACE_VERSION != _EXPECTED_INTERFACE:
    raise ImportError(
        f"the C++ extension {C.__file__} has interface {C.INTERFACE_VERSION}, this remi-fast "
        f"needs {_EXPECTED_INTERFACE}: run `pip install -e .` again"
    )
