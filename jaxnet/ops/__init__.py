"""Arithmetic without parameters: convolution, windows, recurrence, attention."""
