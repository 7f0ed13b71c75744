"""Whisper against transformers: logits, gradients, tokens, features, the way back."""

import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained.whisper import features
from tests.pretrained.test_loading import OTHERS, WHISPER, inputs
from tests.pretrained.test_vision import IDS, IMAGES, compared


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_logits_gradients_and_tokens_are_those_of_transformers(tied, tmp_path, monkeypatch):
    monkeypatch.setitem(OTHERS, "whisper", ("Whisper", WHISPER | {"tie_word_embeddings": tied}))
    torch, model, net, params, state = compared("whisper", None, tmp_path)
    ours, theirs = inputs("whisper", IDS, IMAGES)
    made = jn.decoding.generate(net, params, IDS[:, :3], inputs=ours[:1], length=20, temperature=0)
    sound = torch.tensor(theirs["input_features"])
    start = torch.tensor(IDS[:, :3])
    tokens = model.generate(sound, decoder_input_ids=start, max_new_tokens=20, eos_token_id=None)
    np.testing.assert_array_equal(made.tokens, tokens)
    with pytest.raises(ValueError, match=r"shape \(batch, 40, 8\), got \(3, 8, 40\)\. jaxnet"):
        net.apply(params, state, (ours[0].swapaxes(1, 2), IDS))
    assert tied or len(np.unique(tokens)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("bands", [80, 128])
def test_features_are_those_of_transformers(bands, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    kind = transformers.WhisperFeatureExtractor
    rng = np.random.default_rng(0)
    module = "transformers.models.whisper.feature_extraction_whisper"
    monkeypatch.setattr(f"{module}.is_torch_available", lambda: False)  # torch's are less precise
    waves = [np.float32(rng.normal(size=n)) for n in (30_001, 480_000, 500_000)]
    wanted = kind(bands)(waves, sampling_rate=16_000, return_tensors="np").input_features
    np.testing.assert_allclose(features(waves, bands), np.moveaxis(wanted, 1, 2), atol=1e-6)


def test_integers_raise():
    with pytest.raises(ValueError, match=r"got int16 \(9,\); for a single wave pass \[wave\]"):
        features([np.zeros(9, np.int16)])
