"""Measurement only; nothing in the package imports this."""
