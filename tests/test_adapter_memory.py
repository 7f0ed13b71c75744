"""The memory that a training step of an adapter takes, as compilers say."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from tools import adapter_memory
from tools.adapter_memory import FORMS, MODELS, Needed, needed, row, step_and_specs

TINY = {"vocabulary": 64, "depth": 1, "width": 64, "heads": 2, "kv_heads": 1, "mlp_features": 128}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "count"), [("135M", 134_515_008), ("1B", 1_235_814_400), ("3B", 3_212_749_824)]
)
def test_models_have_their_published_sizes(model, count):
    net = jn.models.decoder(**MODELS[model], tied=True)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((1, 1), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.slow
def test_16_bits_hold_the_frozen_weights_alone():
    _, (train_state, _) = step_and_specs(TINY, "16 bits", jnp.bfloat16)
    [(_, params)] = train_state.params.items()
    attention = params["block_0"]["attention"]["query"]
    assert attention["kernel"].dtype == jnp.bfloat16
    assert attention["kernel_lora_a"].dtype == jnp.float32


@pytest.mark.long
def test_fewer_bits_take_less_memory():
    stored = [needed("cpu", TINY, form).arguments for form in FORMS]
    assert stored == sorted(stored, reverse=True)
    assert len(set(stored)) == len(FORMS)


def test_what_fits_is_bold():
    small, large = Needed(10**9, 10**9), Needed(10**9, int(adapter_memory.MOST))
    assert row("1B", "4 bits", [small, large]) == "| 1B | 4 bits | 1.0 | **2.0** | 16.6 |"
