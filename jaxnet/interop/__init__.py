"""Exchange with other libraries: PyTorch, Flax, StableHLO. Import each module by its name."""
