"""Arithmetic without parameters: convolution, sliding windows, recurrence, attention."""
