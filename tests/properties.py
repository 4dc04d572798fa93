"""hypothesis for the kernels' tests; where it is not installed (a machine with little more than
torch), its tests are skipped and the others of their files run."""

import pytest

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError:

    def given(**_):
        return pytest.mark.skip(reason="needs hypothesis")

    def settings(**_):
        return lambda test: test

    class st:
        """As much of its strategies as the tests name: built, never drawn from."""

        integers = sampled_from = sets = booleans = staticmethod(lambda *_: None)


__all__ = ["given", "settings", "st"]
