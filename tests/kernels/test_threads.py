"""The number of threads of the C++ code."""

import os

from remi_fast.kernels.threads import num_threads, set_num_threads


def test_as_many_as_were_asked_for():
    before = num_threads()
    try:
        assert set_num_threads(3) == num_threads() == 3
        assert set_num_threads(0) == num_threads() == os.cpu_count()
    finally:
        set_num_threads(before)
