"""Bugs planted in Python, Triton and C++, one at a time, each of which a named test must find.

    python -m tests.mutants [--only NAME]

`planted.py` is the list, `runner.py` plants each in a copy of the source; `extension.py` builds it
where it is C++.
"""
