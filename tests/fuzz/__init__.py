"""A fuzzer that knows what it damages: datasets, text folders, checkpoints, configurations.

    python -m tests.fuzz TARGET --inputs N --seed S

An input is a folder of small files. It may open, or be refused by a RemiFastError; any other
exception, a crash, a hang, or memory beyond 64 MiB and 4 times its size is a finding, kept in
`corpus/TARGET/` and replayed by every run. `targets.py` says what is opened and how it is damaged,
`mutate.py` how parts are, `runner.py` does it in a child process.
"""
