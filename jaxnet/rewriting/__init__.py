"""Rewriting of jaxprs: a function of JAX is traced, and some of its operations are replaced."""
