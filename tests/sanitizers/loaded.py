"""A pytest plugin: fails the session unless the extension meant is the one that was imported."""

import os
import sys
from pathlib import Path


def pytest_sessionfinish(session):
    got, expected = sys.modules["_remi_fast_C"].__file__, os.environ["REMI_FAST_EXTENSION"]
    assert Path(got).parent == Path(expected), f"{got} was imported, not that of {expected}"
