"""Bugs planted in the kernels, one at a time, each of which a named test must find.

    python -m tests.mutants [--only NAME]

`planted.py` is the list, `runner.py` plants each in a copy of the source.
"""
