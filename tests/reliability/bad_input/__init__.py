"""What users get wrong, as tables of cases; tests/reliability/test_bad_input.py goes through them.

A case is a name, what is done, and what has to come of it: `refused(...)`, with what the message
says of where it went wrong, of what was got and of what was expected; or `accepted(...)`, with a
check of the documented result.
"""
