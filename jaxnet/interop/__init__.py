"""Models and weights that come from elsewhere, or go there. Each file is imported by name."""
