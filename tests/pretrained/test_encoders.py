"""BERT and its kin against transformers: values, gradients, padding, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained import load, save
from tests.pretrained.test_loading import ENCODERS, outputs, published

HEADS = "Model", "ForMaskedLM", "ForTokenClassification", "ForSequenceClassification"
LENGTHS = np.array([12, 7, 4])
THERE = np.arange(12) < LENGTHS[:, None]
IDS = np.where(THERE, np.random.default_rng(0).integers(3, 97, (3, 12)), 0)
GIVEN = {"input_ids": IDS, "attention_mask": THERE.astype(int)}
PADDED = (jnp.asarray(IDS), jnp.asarray(LENGTHS)), GIVEN, THERE  # and what counts of the outputs


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


def slopes_agree(model, net, grads, state, folder, atol):
    """Gradients, written as weights of a model, are those of the model."""
    save(folder / "grads", net, grads, state)
    found = type(model).from_pretrained(folder / "grads").state_dict()
    wanted = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert len(wanted) > 30
    for key, grad in wanted.items():
        np.testing.assert_allclose(found[key], grad, rtol=1e-3, atol=atol, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_are_those_of_transformers(name, tmp_path):
    torch, model = published(name, tmp_path, HEADS[-1])
    net, params, state = load(tmp_path)

    def loss(params):
        return (net.apply(params, state, PADDED[0])[0] ** 2).sum()

    (outputs(torch, model, GIVEN) ** 2).sum().backward()
    slopes_agree(model, net, jax.grad(loss)(params), state, tmp_path, 1e-5)


@pytest.mark.slow
def test_segments_are_those_of_transformers(tmp_path):
    torch, model = published("bert", tmp_path)
    net, params, state = load(tmp_path)
    types = (np.arange(12) > 2).astype(int) * np.ones((3, 1), int)
    given = *PADDED[0], jnp.asarray(types)
    wanted = outputs(torch, model, GIVEN | {"token_type_ids": types}).detach()
    np.testing.assert_allclose(net.apply(params, state, given)[0][THERE], wanted[THERE], atol=2e-5)
