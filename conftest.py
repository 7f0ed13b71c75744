"""What every doctest finds under its usual name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn


@pytest.fixture(autouse=True)
def names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, np=np, optax=optax, jn=jn)
