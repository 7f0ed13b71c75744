"""Settings of pictures and sound: against transformers, as published, damaged."""

import json
from itertools import cycle

import numpy as np
import pytest
from PIL import Image

from jaxnet.pretrained import processor
from jaxnet.pretrained.pictures import Pictures
from jaxnet.pretrained.sounds import Sounds

ALONE, TOGETHER = "preprocessor_config.json", "processor_config.json"
HALF = [0.5, 0.5, 0.5]
# As their authors published them, with keys in today's form or in that of the first files.
PUBLISHED = {
    "vit": {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": HALF,
        "image_processor_type": "ViTImageProcessor", "image_std": HALF, "resample": 2,
        "rescale_factor": 0.00392156862745098, "size": {"height": 224, "width": 224},
    },
    "vit, old": {
        "do_normalize": True, "do_resize": True, "feature_extractor_type": "ViTFeatureExtractor",
        "image_mean": HALF, "image_std": HALF, "resample": 2, "size": 224,
    },
    "deit, old": {
        "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "DeiTFeatureExtractor", "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 256,
    },
    "dinov2": {
        "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_convert_rgb": True,
        "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406], "image_processor_type": "BitImageProcessor",
        "image_std": [0.229, 0.224, 0.225], "resample": 3, "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 256},
    },
    "clip, old": {
        "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 224,
    },
    "siglip": {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": HALF,
        "image_processor_type": "SiglipImageProcessor", "image_std": HALF,
        "processor_class": "SiglipProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
        "size": {"height": 224, "width": 224},
    },
    "convnext, old": {
        "crop_pct": 0.875, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "ConvNextFeatureExtractor", "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 224,
    },
    "convnext of 384": {
        "do_resize": True, "image_processor_type": "ConvNextImageProcessor", "resample": 3,
        "size": {"shortest_edge": 384},
    },
}  # fmt: skip
KINDS = "ViT", "DeiT", "Bit", "CLIP", "Siglip", "ConvNext"
PUBLISHED |= {
    f"{kind} as it is": {"image_processor_type": f"{kind}ImageProcessor"} for kind in KINDS
}
SIZES = (300, 401), (231, 230), (20, 500), (224, 224), (97, 31), (640, 480)


def written(folder, settings, name=ALONE):
    (folder / name).write_text(json.dumps(settings))
    return folder


def photo(size, seed=0):
    """Random colors that vary slowly, with noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    smooth = np.array(coarse.resize(size[::-1], 3), np.int32)
    return np.uint8(np.clip(smooth + rng.integers(-40, 40, smooth.shape), 0, 255))


def agrees(folder, picture, levels=1e-3):
    """Ours is theirs, up to a fraction of a level of 256."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    theirs = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    wanted = theirs(Image.fromarray(picture), return_tensors="np")["pixel_values"]
    pictures = processor(folder)
    found = pictures(picture)
    assert found.dtype == np.float32
    level = (pictures.scale or 1) / np.array(pictures.std or 1)
    error = abs(found - np.moveaxis(wanted, 1, -1)) / level
    assert error.max() < levels, (pictures, picture.shape)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PUBLISHED)
def test_pictures_are_those_of_transformers(kind, tmp_path):
    written(tmp_path, PUBLISHED[kind])
    for size in SIZES:
        agrees(tmp_path, photo(size))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_any_settings_are_those_of_transformers(seed, tmp_path):
    rng = np.random.default_rng(seed)
    kinds = cycle(PUBLISHED.values())
    for _ in range(16):
        named = {key: value for key, value in next(kinds).items() if key.endswith("_type")}
        convnext = "ConvNext" in str(named)
        height, width, shorter = (int(n) for n in rng.integers(9, 60, 3))
        sizes = [shorter, {"shortest_edge": shorter}, {"height": height, "width": width}]
        crop = not convnext and bool(rng.integers(2))
        crops = [int(rng.integers(9, 70)), {"height": width, "width": height}]
        settings = named | {
            "size": sizes[rng.integers(2 if convnext else 3)],
            "resample": int(rng.integers(6)),
            "do_center_crop": crop,
            "crop_size": crops[rng.integers(2)],
            "do_resize": bool(rng.random() < 0.8),
            "do_normalize": bool(rng.integers(2)),
            "do_rescale": bool(rng.integers(2)),
            "rescale_factor": float(rng.choice([1 / 255, 1 / 127.5])),
            "image_mean": rng.random(3).tolist() if rng.integers(2) else 0.4,
            "image_std": (rng.random(3) + 0.1).tolist() if rng.integers(2) else 0.3,
            "default_to_square": bool(rng.integers(2)),
        }
        if convnext:
            settings |= {"crop_pct": float(rng.uniform(0.5, 1)), "default_to_square": False}
        written(tmp_path, settings)
        agrees(tmp_path, photo(rng.integers(20, 90, 2), seed))


SOUND = {
    "chunk_length": 30, "dither": 0.0, "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80, "hop_length": 160, "mel_filters": [[0.0]], "n_fft": 400,
    "n_samples": 480_000, "nb_max_frames": 3000, "padding_side": "right", "padding_value": 0.0,
    "processor_class": "WhisperProcessor", "return_attention_mask": False, "sampling_rate": 16_000,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("bands", [80, 128])
def test_sounds_are_those_of_transformers(bands, tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    written(tmp_path, SOUND | {"feature_size": bands})
    theirs = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    time = np.arange(500_000) / 16_000
    waves = [
        rng.normal(size=12_345) / 9,
        np.sin(9000 * time**2)[:480_001],
        np.sin(2765 * time)[:160],
    ]
    for wave in waves:
        wave = wave.astype(np.float32)
        options = {"sampling_rate": 16_000, "return_attention_mask": True, "return_tensors": "np"}
        wanted = theirs(wave, **options)
        x, mask = processor(tmp_path)(wave, mask=True)
        np.testing.assert_allclose(x[0].T, wanted["input_features"][0], atol=1e-4)
        np.testing.assert_array_equal(mask, wanted["attention_mask"])
        # Theirs in PyTorch is rounded to float32 before the logarithm, theirs in NumPy is not.
        whole = np.pad(wave[:480_000], (0, max(480_000 - len(wave), 0)))
        precise = theirs._np_extract_fbank_features(whole[None], "cpu")
        np.testing.assert_allclose(x[0].T, precise[0], atol=1e-5)


def test_settings_of_each_family_print_well(tmp_path):
    assert repr(processor(written(tmp_path, PUBLISHED["vit, old"]))) == (
        "Pictures(size=(224, 224), resample='bilinear', crop=None, scale=0.00392156862745098, "
        "mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))"
    )
    assert processor(written(tmp_path, PUBLISHED["siglip"])).size == (224, 224)
    clip = processor(written(tmp_path, PUBLISHED["clip, old"]))
    assert (clip.size, clip.crop, clip.resample) == (224, (224, 224), "bicubic")
    convnext = processor(written(tmp_path, PUBLISHED["convnext, old"]))
    assert (convnext.size, convnext.crop) == (256, (224, 224))
    convnext = processor(written(tmp_path, PUBLISHED["convnext of 384"]))
    assert (convnext.size, convnext.crop) == ((384, 384), None)
    assert processor(written(tmp_path, SOUND)) == Sounds(80)


def test_settings_may_be_in_the_file_of_both(tmp_path):
    """The newest files have them in one object for each part, which counts more."""
    vit = PUBLISHED["vit"]
    written(tmp_path, vit | {"resample": 3}, ALONE)
    written(tmp_path, {"processor_class": "ViTProcessor"}, TOGETHER)
    assert processor(tmp_path).resample == "bicubic"
    written(tmp_path, {"image_processor": vit, "processor_class": "CLIPProcessor"}, TOGETHER)
    assert processor(tmp_path).resample == "bilinear"
    written(tmp_path, {"feature_extractor": SOUND}, TOGETHER)
    assert processor(tmp_path) == Sounds(80)


def test_the_class_may_be_that_of_the_model(tmp_path):
    written(tmp_path, {"do_resize": False})
    written(tmp_path, {"model_type": "siglip"}, "config.json")
    pictures = processor(tmp_path)
    assert pictures == Pictures(scale=1 / 255, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(("change", "words"), [
    ({"do_thumbnail": True}, "do_thumbnail must be False, got True"),
    ({"do_pad": True}, "do_pad must be False, got True"),
    ({"mirror": True}, "the entry 'mirror' is unknown for ViTImageProcessor"),
    ({"crop_pct": 0.9}, "the entry 'crop_pct' is unknown for ViTImageProcessor"),
    ({"image_processor_type": "DonutImageProcessor"}, "image_processor_type or .* one of .*'Donut"),
    ({"image_processor_type": ["ViT"]}, "image_processor_type or .* must be one of"),
    ({"image_processor_type": None}, "image_processor_type or .* must be one of .*got None"),
    ({"size": {"longest_edge": 224}}, "size must be a number, or have height and width"),
    ({"size": {"height": 224}}, "size must be a number, or have height and width"),
    ({"size": 0}, "size must be a whole number of pixels from 1 to 16,384, got 0"),
    ({"size": True}, "size must be a whole number of pixels"),
    ({"size": 10**400}, "size must be a whole number of pixels"),
    ({"size": {"height": 224, "width": 2.5}}, "width of size must be a whole number of pixels"),
    ({"size": [1, 2, 3]}, "size must be a number, or have"),
    ({"resample": 6}, "resample must be a number from 0 to 5, got 6"),
    ({"resample": "bicubic"}, "resample must be a number from 0 to 5"),
    ({"do_resize": 1}, "do_resize must be true or false, got 1"),
    ({"do_center_crop": True, "crop_size": {"shortest_edge": 5}}, "crop_size must be a number"),
    ({"rescale_factor": float("nan")}, "rescale_factor must be a positive number, got nan"),
    ({"image_mean": [0.5, 0.5]}, r"image_mean must be 3 numbers, got \[0.5, 0.5\]"),
    ({"image_mean": [0.5, 0.5, float("inf")]}, "image_mean must be 3 numbers"),
    ({"image_std": [1, 0, 1]}, "image_std must be positive"),
    ({"rescale_factor": 10**400}, "rescale_factor must be a positive number"),
    ({"image_std": 10**400}, "image_std must be 3 numbers"),
])  # fmt: skip
def test_settings_of_pictures_that_are_refused(change, words, tmp_path):
    written(tmp_path, PUBLISHED["vit"] | change)
    with pytest.raises(ValueError, match=f"processor: .*{ALONE}: {words}"):
        processor(tmp_path)


@pytest.mark.parametrize(("change", "words"), [
    ({"size": {"height": 9, "width": 9}}, "size must have a shortest_edge"),
    ({"do_center_crop": True}, "do_center_crop must be false"),
    ({"crop_pct": 0}, "crop_pct must be a positive number"),
    ({"crop_pct": 1e-300}, "size / crop_pct must be a whole number of pixels"),
])  # fmt: skip
def test_settings_of_convnext_that_are_refused(change, words, tmp_path):
    written(tmp_path, PUBLISHED["convnext, old"] | change)
    with pytest.raises(ValueError, match=f"processor: .*{words}"):
        processor(tmp_path)


@pytest.mark.parametrize(("change", "words"), [
    ({"sampling_rate": 8000}, "sampling_rate must be 16000, got 8000"),
    ({"do_normalize": True}, "do_normalize must be False"),
    ({"feature_size": 10**9}, "feature_size must be a whole number from 1 to 256"),
    ({"image_mean": 0.5}, "the entry 'image_mean' is unknown for WhisperFeatureExtractor"),
])  # fmt: skip
def test_settings_of_sound_that_are_refused(change, words, tmp_path):
    written(tmp_path, SOUND | change)
    with pytest.raises(ValueError, match=f"processor: .*{words}"):
        processor(tmp_path)


@pytest.mark.parametrize(("text", "words"), [
    ("{", "is not JSON"), ("[" * 100_000, "is not JSON"), ("[]", "must hold an object, got list"),
    (b"\xff\xfe\x00", "is not JSON"),
])  # fmt: skip
def test_files_that_are_no_settings(text, words, tmp_path):
    (tmp_path / ALONE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"processor: .*{ALONE} {words}"):
        processor(tmp_path)


def test_a_folder_without_settings(tmp_path):
    written(tmp_path, {"processor_class": "CLIPProcessor"}, TOGETHER)
    with pytest.raises(FileNotFoundError, match="processor: .* has no settings for pictures"):
        processor(tmp_path)
    written(tmp_path, {"image_processor": [1]}, TOGETHER)
    with pytest.raises(ValueError, match="image_processor must be an object, got list"):
        processor(tmp_path)
