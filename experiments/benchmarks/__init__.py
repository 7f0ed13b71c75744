"""Benchmarks of jaxnet against other libraries: `python -m experiments.benchmarks`."""
