"""One or several runs as one self-contained HTML page, and its figures as PNGs.

`write` needs matplotlib (the extra `report`): it is imported where used.
"""
