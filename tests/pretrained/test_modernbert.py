"""ModernBERT's options from files of both kinds; its outputs are compared in test_encoders.py."""

import jax
import pytest

import jaxnet as jn
from jaxnet.pretrained import modernbert
from jaxnet.pretrained.config import complete
from jaxnet.pretrained.families import FAMILIES

OLDER = {"global_attn_every_n_layers": 2, "local_attention": 6, "local_rope_theta": 5.0}
NEWER = {"local_attention": 6, "layer_types": ["full_attention", "sliding_attention"] * 11,
         "rope_parameters": {"sliding_attention": {"rope_theta": 5.0}}}  # fmt: skip


def options(**entries):
    return modernbert.options(complete("f", {"model_type": "modernbert"} | entries, FAMILIES))


def test_older_and_newer_entries_say_the_same():
    found = options(**OLDER)
    assert found == options(**NEWER)
    assert found["windows"] == [None, 3] * 11
    assert found["bases"] == [160_000.0, 5.0] * 11


@pytest.mark.slow
def test_parameters_of_the_published_model():
    net = modernbert.modernbert(**options(architectures=["ModernBertForMaskedLM"]))
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((1, 2), int))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 149_655_232


@pytest.mark.parametrize(("entries", "words"), [
    ({"num_attention_heads": 256}, "the rotations need heads of an even size"),
    ({"layer_types": []}, "layer_types must have 22 entries, got 0"),
    ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "of the type default, got"),
    ({"rope_parameters": {"other": {}}}, "of full_attention and sliding_attention, got"),
    ({"classifier_pooling": "max"}, "classifier_pooling must be cls or mean, got 'max'"),
])  # fmt: skip
def test_what_the_net_cannot_compute_is_named(entries, words):
    with pytest.raises(ValueError, match=words):
        options(**entries)
