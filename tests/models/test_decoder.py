"""The decoder by its parts; tests/pretrained/test_recorded.py has published models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import jit_init, temporary
from tests.layers.test_attention import random_params, run

IDS = jnp.array([[1, 5, 0, 2], [7, 7, 3, 10]])


@pytest.mark.slow
def test_the_decoder_by_its_parts(x64):
    sizes = {"depth": 2, "width": 8, "heads": 4, "kv_heads": 2, "mlp_features": 12}
    scales = {"embedding_scale": 3.0, "residual_scale": 0.7, "logit_scale": 0.4}
    windows = {"window": (1, 0), "windowed": (True, False), "local_rotary": False}
    options = {"tied": True, "max_length": 6, "logit_softcap": 2.0, "epsilon": 1e-5}
    net = jn.models.decoder(11, **sizes, **scales, **windows, **options)
    p = random_params(net, IDS)
    assert set(p) == {"embedding", "positions", "block_0", "block_1", "norm"}

    def norm(name="norm"):
        return jn.rms_norm(epsilon=1e-5, name=name)

    table = p["embedding"]["embedding"]
    x = 3 * table[IDS] + p["positions"]["embedding"][:4]
    for i, window in enumerate([(1, 0), None]):
        block = jn.transformer_block(
            4,
            12,
            kv_heads=2,
            causal=True,
            window=window,
            rotary=window is None,
            gated=True,
            activation=jax.nn.silu,
            norm=norm,
            use_bias=False,
            residual_scale=0.7,
        )
        x = run(block, p[f"block_{i}"], x)
    logits = run(norm(), p["norm"], x) @ table.T
    wanted = 2 * jnp.tanh(0.4 * logits / 2)
    np.testing.assert_allclose(run(net, p, IDS), wanted, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda net: net, jn.quantized])
@pytest.mark.parametrize("tied", [True, False])
def test_labels_give_the_losses_of_the_logits(tied, wrap):
    net = jn.models.decoder(11, depth=1, width=8, heads=2, tied=tied, logit_softcap=2.0)
    net = wrap(net)
    labels = IDS[:, ::-1]
    params, state = jit_init(net, jax.random.key(0), jn.Labeled(IDS, labels))
    whole, _ = jit_init(net, jax.random.key(0), IDS)
    jax.tree.map(np.testing.assert_array_equal, params, whole)

    def losses(params):
        y, _ = net.apply(params, state, jn.Labeled(IDS, labels))
        return y.sum(), y

    def of_logits(params):
        y = jn.losses.cross_entropy(net.apply(params, state, IDS)[0], labels)
        return y.sum(), y

    def with_slopes(loss):
        return jax.jit(jax.grad(loss, has_aux=True, allow_int=True))(params)

    slopes, values = with_slopes(losses)
    wanted_slopes, wanted = with_slopes(of_logits)
    np.testing.assert_allclose(values, wanted, 1e-5)

    def compare(a, b):
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, 1e-4, 1e-6)

    jax.tree.map(compare, slopes, wanted_slopes)


@pytest.mark.slow
def test_training_with_labels_does_not_hold_all_logits():
    net = jn.models.decoder(8000, depth=1, width=16, heads=2)
    ids = jn.spec((4, 512), jnp.int32)
    params, state = jax.eval_shape(net.init, jax.random.key(0), ids)

    def by_labels(params, ids):
        y, _ = net.apply(params, state, jn.Labeled(ids, ids))
        return y.sum()

    def by_logits(params, ids):
        logits, _ = net.apply(params, state, ids)
        return jn.losses.cross_entropy(logits, ids).sum()

    chunks = temporary(jax.grad(by_labels), params, ids)
    whole = temporary(jax.grad(by_logits), params, ids)
    assert chunks < whole / 3


@pytest.mark.parametrize("options", [{}, {"rotary": False, "max_length": 5}], ids=str)
def test_packed_texts_have_the_logits_of_each_alone(options, x64):
    net = jn.models.decoder(11, depth=1, width=8, heads=2, **options)
    ids, other = jnp.array([[1, 5, 0]]), jnp.array([[7, 2]])
    params = random_params(net, ids)
    numbers = jnp.array([[1, 1, 1, 2, 2]])
    packed = run(net, params, (jnp.concatenate([ids, other], 1), jn.Segments(numbers)))
    alone = [run(net, params, one) for one in (ids, other)]
    np.testing.assert_allclose(packed, jnp.concatenate(alone, 1), 1e-9)
    labels = jnp.array([[5, 0, 3, 2, 4]])
    given = jn.Labeled((jnp.concatenate([ids, other], 1), jn.Segments(numbers)), labels)
    wanted = jn.losses.cross_entropy(packed, labels)
    np.testing.assert_allclose(run(net, params, given), wanted, 1e-5)


def test_three_parts_are_refused():
    net = jn.models.decoder(11, depth=1, width=8, heads=2)
    with pytest.raises(ValueError, match=r"expected ids, \(ids, mask\), or jn.Labeled"):
        net.init(jax.random.key(0), jn.Labeled((IDS, IDS, IDS), IDS))


@pytest.mark.parametrize(("options", "words"), [
    ({"depth": 0}, "depth must be at least 1"),
    ({"norm": "batch"}, "norm must be 'rms' or 'layer', got 'batch'"),
    ({"qk_norm": True}, "qk_norm must be 'none', 'head' or 'all', got True"),
    ({"windowed": ()}, "windowed must be booleans, such as"),
    ({"logit_softcap": 0.0}, "logit_softcap must be"),
    ({"heads": 3}, "heads must divide|3 heads"),
])  # fmt: skip
def test_options_that_do_not_fit(options, words):
    options = {"vocabulary": 11, "depth": 1, "width": 8, "heads": 2} | options
    with pytest.raises(ValueError, match=words):
        net = jn.models.decoder(**options)
        jax.eval_shape(net.init, jax.random.key(0), IDS)


@pytest.mark.slow
def test_experts_are_copies_of_a_given_mlp():
    net = jn.models.decoder(11, depth=1, width=8, heads=2, mlp=jn.dense(8), experts=3)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((1, 4), jnp.int32))
    assert params["block_0"]["moe"]["experts"]["kernel"].shape == (3, 8, 8)
