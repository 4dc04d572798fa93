"""One or several runs as one self-contained HTML page, and its figures as PNGs.

The figures need matplotlib (the extra `report`), which is imported where it is used.
"""
