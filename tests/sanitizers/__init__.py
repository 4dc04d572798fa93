"""The C++ code under AddressSanitizer and UndefinedBehaviorSanitizer, or under ThreadSanitizer.

    python -m tests.sanitizers address|thread [--short]

`build.py` builds csrc, `schedules.py` is what ThreadSanitizer watches.
"""
