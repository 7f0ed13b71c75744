import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn

KEY = jax.random.key(0)


@pytest.mark.parametrize(("init", "words"), [
    (lambda key, shape, dtype: jnp.zeros(3), r"must return .* of shape \(4, 3\), got \(3,\) "),
    (lambda key, shape, dtype: None, r"must return an array of shape \(4, 3\), got NoneType"),
    (lambda key, shape, dtype: 0.0, r"must return an array of shape \(4, 3\), got float"),
])  # fmt: skip
def test_an_initializer_gives_the_shape_it_got(init, words):
    with pytest.raises(ValueError, match=f"dense: the initializer of 'kernel' {words}"):
        jn.dense(3, kernel_init=init).init(KEY, jn.spec((2, 4)))


@pytest.mark.parametrize(("layer", "shape", "what"), [
    (jn.dense(3, kernel_init=lambda: 0.0), (2, 4), "'kernel' of dense"),
    (jn.dense(3, bias_init=lambda: 0.0), (2, 4), "'bias' of dense"),
    (jn.conv(3, (3, 3), kernel_init=lambda: 0.0), (2, 4, 4, 1), "'kernel' of conv"),
    (jn.batch_norm(scale_init=lambda: 0.0), (2, 4), "'scale' of batch_norm"),
])  # fmt: skip
def test_an_initializer_that_fails_is_named(layer, shape, what):
    with pytest.raises(TypeError) as error:
        layer.init(KEY, jn.spec(shape))
    assert f"in the initializer of {what}, which gets (key, shape, dtype)" in error.value.__notes__
