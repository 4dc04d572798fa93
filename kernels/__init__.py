"""The mathematics of remi-fast: each operation beside its eager reference.

Imported as `remi_fast.kernels`, never as `kernels`. See CONTRIBUTING.md for the rooms.
"""
