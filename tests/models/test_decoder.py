"""The decoder by its parts; tests/pretrained/test_recorded.py has published models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import jit_init, temporary
from tests.layers.test_attention import random_params, run

IDS = jnp.array([[1, 5, 0, 2], [7, 7, 3, 10]])


def test_the_decoder_by_its_parts(x64):
    sizes = {"depth": 2, "width": 8, "heads": 4, "kv_heads": 2, "mlp_features": 12}
    net = jn.models.decoder(
        11, **sizes, tied=True, max_length=6, embedding_scale=3.0, logit_softcap=2.0,
        window=(1, 0), windowed=(True, False), local_rotary=False, epsilon=1e-5,
        residual_scale=0.7, logit_scale=0.4,
    )  # fmt: skip
    p = random_params(net, IDS)
    assert set(p) == {"embedding", "positions", "block_0", "block_1", "norm"}

    def norm(name="norm"):
        return jn.rms_norm(epsilon=1e-5, name=name)

    x = 3 * p["embedding"]["embedding"][IDS] + p["positions"]["embedding"][:4]
    for i, window in enumerate([(1, 0), None]):
        block = jn.transformer_block(
            4, 12, kv_heads=2, causal=True, window=window, rotary=window is None, gated=True,
            activation=jax.nn.silu, norm=norm, use_bias=False, residual_scale=0.7,
        )  # fmt: skip
        x = run(block, p[f"block_{i}"], x)
    logits = run(norm(), p["norm"], x) @ p["embedding"]["embedding"].T
    np.testing.assert_allclose(run(net, p, IDS), 2 * jnp.tanh(0.4 * logits / 2), 1e-10)


@pytest.mark.fast_cases("False-<lambda>")
@pytest.mark.parametrize("wrap", [lambda net: net, jn.quantized])
@pytest.mark.parametrize("tied", [True, False])
def test_labels_give_the_losses_of_the_logits(tied, wrap):
    net = jn.models.decoder(11, depth=1, width=8, heads=2, tied=tied, logit_softcap=2.0)
    net = wrap(net)
    labels = IDS[:, ::-1]
    params, state = jit_init(net, jax.random.key(0), (IDS, labels))
    whole, _ = jit_init(net, jax.random.key(0), IDS)
    jax.tree.map(np.testing.assert_array_equal, params, whole)

    def losses(params):
        y, _ = net.apply(params, state, (IDS, labels))
        return y.sum(), y

    def of_logits(params):
        y = jn.losses.cross_entropy(net.apply(params, state, IDS)[0], labels)
        return y.sum(), y

    runs = [jax.jit(jax.grad(f, has_aux=True, allow_int=True)) for f in (losses, of_logits)]
    slopes, values = zip(*(run(params) for run in runs), strict=True)
    np.testing.assert_allclose(*values, 1e-5)

    def floats(a):
        return jnp.issubdtype(a.dtype, jnp.floating)

    jax.tree.map(lambda a, b: floats(a) and np.testing.assert_allclose(a, b, 1e-4, 1e-6), *slopes)


def test_training_with_labels_does_not_hold_all_logits():
    net = jn.models.decoder(8000, depth=1, width=16, heads=2)
    ids = jn.spec((4, 512), jnp.int32)
    params, state = jax.eval_shape(net.init, jax.random.key(0), ids)

    def held(loss):
        return temporary(jax.grad(lambda params, ids: loss(params, ids).sum()), params, ids)

    chunks = held(lambda params, ids: net.apply(params, state, (ids, ids))[0])
    whole = held(lambda p, ids: jn.losses.cross_entropy(net.apply(p, state, ids)[0], ids))
    assert chunks < whole / 3


@pytest.mark.parametrize(("options", "words"), [
    ({"depth": 0}, "depth must be at least 1"),
    ({"norm": "batch"}, "norm must be 'rms' or 'layer', got 'batch'"),
    ({"qk_norm": True}, "qk_norm must be 'none', 'head' or 'all', got True"),
    ({"windowed": ()}, "windowed must be booleans, such as"),
    ({"logit_softcap": 0.0}, "logit_softcap must be"),
    ({"heads": 3}, "heads must divide|3 heads"),
])  # fmt: skip
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        net = jn.models.decoder(**{"vocabulary": 11, "depth": 1, "width": 8, "heads": 2} | options)
        jax.eval_shape(net.init, jax.random.key(0), IDS)


def test_experts_are_copies_of_a_given_mlp():
    net = jn.models.decoder(11, depth=1, width=8, heads=2, mlp=jn.dense(8), experts=3)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((1, 4), jnp.int32))
    assert params["block_0"]["moe"]["experts"]["kernel"].shape == (3, 8, 8)
