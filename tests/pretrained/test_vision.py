"""Images, images with texts, and speech, against transformers, and the published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained import load, save
from jaxnet.pretrained.config import complete
from jaxnet.pretrained.families import FAMILIES
from tests.pretrained.test_encoders import PADDED, slopes_agree
from tests.pretrained.test_loading import BOTH, OTHERS, VISION, inputs, outputs, published

RNG = np.random.default_rng(0)
IMAGES, WIDE = (np.float32(RNG.normal(size=(2, *size, 3))) for size in ((16, 16), (24, 29)))
IDS = RNG.integers(8, 96, (3, 12))
IDS[[0, 1, 2, 2], [4, 11, 2, 9]] = 7  # ends
IDS[[0, 1, 2], [3, 0, 8]] = 96
KINDS = {
    "vit": ("vit", "Model", {}), "vit-classes": ("vit", "ForImageClassification", {}),
    "deit": ("deit", "ForImageClassification", {}), "dinov2": ("dinov2", "Model", {}),
    "teacher": ("deit", "ForImageClassificationWithTeacher", {"qkv_bias": False}),
    "dinov2-classes": ("dinov2", "ForImageClassification", {}), "clip": ("clip", "Model", {}),
    "giant": ("dinov2", "Model", {"use_swiglu_ffn": True}), "siglip": ("siglip", "Model", {}),
    "convnext": ("convnext", "ForImageClassification", {}),
    "clip-old": ("clip", "Model", {"text_config": BOTH["text_config"] | {"eos_token_id": 2}}),
}  # fmt: skip


def compared(name, head, folder):
    """A model of transformers and ours, after a comparison of outputs, gradients and ways back."""
    torch, model = published(name, folder, head)
    net, params, state = load(folder)
    given, theirs = inputs(name, IDS, IMAGES)
    wanted = outputs(torch, model, theirs)

    def loss(params):
        y, _ = net.apply(params, state, given)
        return jnp.sin(y).sum(), y

    grads, found = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(found, wanted.detach(), rtol=1e-5, atol=1e-5)
    wanted.sin().sum().backward()
    slopes_agree(model, net, grads, state, folder, 2e-4)
    save(folder / "back", net, params, state)
    again = type(model).from_pretrained(folder / "back", attn_implementation="eager").eval()
    np.testing.assert_array_equal(outputs(torch, again, theirs).detach(), wanted.detach())
    return torch, model, net, params, state


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_images_and_gradients_are_those_of_transformers(kind, tmp_path, monkeypatch):
    name, head, more = KINDS[kind]
    monkeypatch.setitem(OTHERS, name, (VISION[name][0], VISION[name][1] | more))
    torch, model, net, params, state = compared(name, head, tmp_path)
    given, theirs = inputs(name, IDS, WIDE)
    options = {} if name in ("dinov2", "convnext") else {"interpolate_pos_encoding": True}
    wanted = outputs(torch, model, theirs, **options).detach()
    np.testing.assert_allclose(net.apply(params, state, given)[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["bert", *VISION, "whisper"])
def test_sixteen_bits_are_near(name, dtype, tmp_path):
    torch, model = published(name, tmp_path)
    net, params, state = load(tmp_path)
    given, theirs, count = PADDED if name == "bert" else (*inputs(name, IDS, IMAGES), ...)
    wanted = outputs(torch, model, theirs).detach().numpy()[count]
    found = np.float32(jn.cast(net, dtype).apply(params, state, given)[0])[count]
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    _, half, _ = load(tmp_path, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(dtype)}


OLD = {  # entries of the parts in files of transformers 4.16
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "dropout": 0.0,
    "eos_token_id": 2, "id2label": {"0": "LABEL_0"}, "projection_dim": 512, "pruned_heads": {},
    "is_decoder": False, "tie_word_embeddings": True, "torch_dtype": None,
}  # fmt: skip
CLIP = {"text_config": OLD | {"hidden_size": 512}, "vision_config": OLD, "text_config_dict": None}
DINO = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "stage_names": ["stem"]}
CLASSES = {"id2label": {str(i): f"class {i}" for i in range(1000)}}


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "entries", "size"), [
    ("ViTForImageClassification", CLASSES, 86_567_656),
    ("DeiTForImageClassificationWithTeacher", CLASSES, 87_338_192),
    ("Dinov2Model", DINO, 22_056_576 - 384),  # without the token of masked patches
    ("CLIPModel", CLIP, 151_277_313),
    ("CLIPModel", {"text_config_dict": {}, "text_config": {"hidden_size": 9}}, 151_277_313),
    ("SiglipModel", {"text_config": {"vocab_size": 32_000}, "vision_config": {}}, 203_155_970),
    ("WhisperForConditionalGeneration", {"num_hidden_layers": 4, "max_length": 448}, 37_760_640),
])  # fmt: skip
def test_published_configurations_have_their_published_sizes(architecture, entries, size):
    family = next(name for name, (kind, _) in OTHERS.items() if architecture.startswith(kind))
    config = entries | {"model_type": family, "architectures": [architecture]}
    how = FAMILIES[family].stored(complete("load", config, FAMILIES), None)
    net = FAMILIES[family].net(**how.options)
    x = how.x or FAMILIES[family].x
    params, _ = jax.eval_shape(net.init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == size
