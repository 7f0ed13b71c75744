"""jaxnet beside other libraries, measured in one run: `python -m experiments.benchmarks`."""
