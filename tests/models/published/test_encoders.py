"""BERT and its kin against transformers: values, gradients, padding, 16 bits, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.interop import load, save
from tests.interop.test_published import ENCODERS, outputs, published

HEADS = "Model", "ForMaskedLM", "ForTokenClassification", "ForSequenceClassification"
LENGTHS = np.array([12, 7, 4])
THERE = np.arange(12) < LENGTHS[:, None]
IDS = np.where(THERE, np.random.default_rng(0).integers(3, 97, (3, 12)), 0)
GIVEN = {"input_ids": IDS, "attention_mask": THERE.astype(int)}


def test_a_net_without_a_configuration_is_not_saved():
    net = jn.dense(2)
    with pytest.raises(ValueError, match="this net has no configuration; write save"):
        save("nowhere", net, *net.init(jax.random.key(0), jn.spec((1, 2))))


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ENCODERS)
def test_outputs_are_those_of_transformers_and_go_back(name, head, tmp_path):
    torch, model = published(name, tmp_path, head)
    net, params, state = load(tmp_path)
    count = THERE if head != HEADS[-1] else slice(None)
    wanted = outputs(torch, model, GIVEN).detach()[count]
    for mask in (LENGTHS, THERE):
        found = np.asarray(net.apply(params, state, (jnp.asarray(IDS), jnp.asarray(mask)))[0])
        np.testing.assert_allclose(found[count], wanted, atol=2e-5)
    save(tmp_path / "back", net, params, state)
    again = type(model).from_pretrained(tmp_path / "back", attn_implementation="eager").eval()
    np.testing.assert_array_equal(outputs(torch, again, GIVEN).detach()[count], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_are_those_of_transformers(name, tmp_path):
    torch, model = published(name, tmp_path, HEADS[-1])
    net, params, state = load(tmp_path)
    given = jnp.asarray(IDS), jnp.asarray(LENGTHS)

    def loss(params):
        return (net.apply(params, state, given)[0] ** 2).sum()

    save(tmp_path / "grads", net, jax.grad(loss)(params), state)
    (outputs(torch, model, GIVEN) ** 2).sum().backward()
    gradients = type(model).from_pretrained(tmp_path / "grads").state_dict()
    wanted = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert len(wanted) > 30
    for key, grad in wanted.items():
        np.testing.assert_allclose(gradients[key], grad, rtol=1e-3, atol=1e-5, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bits_are_near(dtype, tmp_path):
    torch, model = published("bert", tmp_path, "ForMaskedLM")
    net, params, state = load(tmp_path)
    given = jnp.asarray(IDS), jnp.asarray(LENGTHS)
    wanted = outputs(torch, model, GIVEN).detach().numpy()[THERE]
    found = np.float32(jn.cast(net, dtype).apply(params, state, given)[0])[THERE]
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    _, half, _ = load(tmp_path, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(dtype)}


@pytest.mark.slow
def test_segments_are_those_of_transformers(tmp_path):
    torch, model = published("bert", tmp_path)
    net, params, state = load(tmp_path)
    types = (np.arange(12) > 2).astype(int) * np.ones((3, 1), int)
    given = jnp.asarray(IDS), jnp.asarray(LENGTHS), jnp.asarray(types)
    wanted = outputs(torch, model, GIVEN | {"token_type_ids": types}).detach()
    np.testing.assert_allclose(net.apply(params, state, given)[0][THERE], wanted[THERE], atol=2e-5)
