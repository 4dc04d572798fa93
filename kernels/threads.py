"""Threads of the C++ code, which has one pool for all of its loops."""

from .native import C


def set_num_threads(threads: int) -> int:
    """Use so many threads, the calling one included; 0 is one a core. Returns how many they are."""
    C.set_num_threads(threads)
    return num_threads()


def num_threads() -> int:
    """How many threads are used."""
    return int(C.num_threads())
