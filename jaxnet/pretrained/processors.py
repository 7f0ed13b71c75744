"""The settings by which a published model takes pictures or sound.

Settings are data, as configurations are: each entry is used, or must have a certain value, or is
known to have no effect; an entry that is on no list raises.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxnet.pretrained.config import is_positive
from jaxnet.pretrained.pictures import FILTERS, Pictures
from jaxnet.pretrained.sounds import Sounds
from jaxnet.pretrained.source import place_of
from jaxnet.services.files import exists
from jaxnet.services.json_text import read_object

WHO = "processor"
SETTINGS, TOGETHER = "preprocessor_config.json", "processor_config.json"
PARTS = "image_processor", "feature_extractor"  # objects of processor_config.json
LONGEST = 2**14  # pixels of a side
LARGEST = 1e9  # of other numbers


def processor(
    source: str | Path, *, download: bool = False, revision: str | None = None
) -> Pictures | Sounds:
    """Return what turns files of pictures or of sound into the input of a published net.

    It follows the model's own preprocessor_config.json or processor_config.json, and is a function
    whose settings are its fields. That of ViT, DeiT, DINOv2, ConvNeXt, CLIP and SigLIP takes
    pictures, which it resizes, crops and normalizes, and returns (pictures, height, width, 3). That
    of Whisper takes recordings, and returns their features (recordings, 3000, bands); it has the
    options `rate=16_000`, the samples per second of arrays, and `mask=False`, whether to return too
    which frames are of the recording. Both take a file, an array, or a list of these, and return
    floats in float32.

    A picture's file is one of those that `jn.data.read_image` reads; its transparent pixels become
    white. A recording's file is a WAV file.

    Args:
      source, download, revision: As in `load`; only small files are read.

    Returns:
      A function of pictures or recordings that returns an array; printed, it shows its settings.

    Raises:
      OSError: If the model has neither file.
      ValueError: If a setting is unknown, or has a value with which the input cannot be made.

    Example:
      >>> import json, tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> settings = {"image_processor_type": "CLIPImageProcessor", "size": 32, "crop_size": 32}
      >>> _ = (folder / "preprocessor_config.json").write_text(json.dumps(settings))
      >>> pictures = processor(folder)
      >>> pictures.size, pictures.crop, pictures.resample
      (32, (32, 32), 'bicubic')
      >>> pictures(np.zeros((40, 60, 3), np.uint8)).shape
      (1, 32, 32, 3)
    """
    path = place_of(WHO, source, download, revision, weights=False)
    settings = _settings(path)
    if settings.kind == "WhisperFeatureExtractor":
        return _sounds(settings)
    return _pictures(settings)


class _Settings(NamedTuple):
    """The settings of a model as its file has them.

    Fields:
      where: Name of the function and of the file, for messages.
      kind: Class of transformers that they are for.
      entries: The settings.
    """

    where: str
    kind: str
    entries: dict[str, Any]

    def error(self, words: str) -> ValueError:
        """Return an error that names the file."""
        return ValueError(f"{self.where}: {words}")

    def complete(self, defaults: Mapping[str, Any], only: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries that are used; raise for one that is unknown or has a wrong value."""
        used = dict(defaults)
        for name, value in self.entries.items():
            if name in used:
                used[name] = used[name] if value is None else value
            elif name in only:
                if value is not None and value != only[name]:
                    raise self.error(f"{name} must be {only[name]}, got {value!r:.60}")
            elif name not in IGNORED:
                raise self.error(f"the entry {name!r:.60} is unknown for {self.kind}")
        return used

    def flag(self, used: Mapping[str, Any], name: str) -> bool:
        value = used[name]
        if not isinstance(value, bool):
            raise self.error(f"{name} must be true or false, got {value!r:.60}")
        return value

    def number(self, used: Mapping[str, Any], name: str) -> float:
        value = used[name]
        if not is_positive(value) or value > LARGEST:
            raise self.error(f"{name} must be a positive number, got {value!r:.60}")
        return value

    def side(self, name: str, value: Any) -> int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not 1 <= value <= LONGEST:
            raise self.error(
                f"{name} must be a whole number of pixels from 1 to {LONGEST:,}, got {value!r:.60}"
            )
        return value

    def size(self, name: str, value: Any, *, square: bool = True) -> tuple[int, int] | int:
        """Return a size: (height, width), or the length of the shorter side.

        Args:
          name, value: Entry.
          square: Whether a number is of both sides.
        """
        if isinstance(value, int):
            side = self.side(name, value)
            return (side, side) if square else side
        if isinstance(value, list) and len(value) == 2:
            value = dict(zip(("height", "width"), value, strict=True))
        if isinstance(value, dict) and value.keys() == {"shortest_edge"}:
            return self.side(f"shortest_edge of {name}", value["shortest_edge"])
        if not isinstance(value, dict) or value.keys() != {"height", "width"}:
            raise self.error(
                f"{name} must be a number, or have height and width, or shortest_edge, got "
                f"{value!r:.60}"
            )
        height, width = (self.side(f"{key} of {name}", value[key]) for key in ("height", "width"))
        return height, width

    def channels(self, used: Mapping[str, Any], name: str) -> tuple[float, ...]:
        value = used[name]
        numbers = value if isinstance(value, list | tuple) else [value] * 3
        if len(numbers) != 3 or not all(map(_is_number, numbers)):
            raise self.error(f"{name} must be 3 numbers, got {value!r:.60}")
        return tuple(map(float, numbers))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST


def _settings(folder: Path) -> _Settings:
    """Return the settings in the folder of a model."""
    together, alone = folder / TOGETHER, folder / SETTINGS
    for name in PARTS if exists(WHO, together) else ():
        entries = read_object(WHO, together).get(name)
        if entries is not None:
            return _of_kind(f"{WHO}: {together}: {name}", folder, entries)
    if not exists(WHO, alone):
        raise FileNotFoundError(
            f"{WHO}: {folder} has no settings for pictures or sound: there is no {SETTINGS}, and "
            f"no {TOGETHER} with {' or '.join(PARTS)}"
        )
    return _of_kind(f"{WHO}: {alone}", folder, read_object(WHO, alone))


def _of_kind(where: str, folder: Path, entries: Any) -> _Settings:
    """Return settings with the class that they name, or else that of the model."""
    if not isinstance(entries, dict):
        raise ValueError(f"{where} must be an object, got {type(entries).__name__}")
    named = entries.get("image_processor_type") or entries.get("feature_extractor_type")
    if named is None and exists(WHO, folder / "config.json"):
        named = BY_MODEL.get(str(read_object(WHO, folder / "config.json").get("model_type")))
    kind = str(named).removesuffix("Fast").removesuffix("Pil")
    if kind != "WhisperFeatureExtractor":  # older files name all classes so
        kind = kind.replace("FeatureExtractor", "ImageProcessor")
    if kind not in KINDS:
        raise ValueError(
            f"{where}: image_processor_type or feature_extractor_type must be one of "
            f"{', '.join(KINDS)}, got {named!r:.60}"
        )
    return _Settings(where, kind, entries)


def _pictures(settings: _Settings) -> Pictures:
    """Return what settings of pictures say."""
    used = settings.complete(KINDS[settings.kind], ONLY)
    resizes, crops, scales, normalizes = (settings.flag(used, name) for name in DO)
    square = settings.flag(used, "default_to_square")
    pictures = Pictures()
    if resizes:
        number = used["resample"]
        if type(number) is not int or number not in range(len(FILTERS)):
            raise settings.error(f"resample must be a number from 0 to 5, got {number!r:.60}")
        size = settings.size("size", used["size"], square=square)
        pictures = pictures._replace(size=size, resample=FILTERS[number])
    if crops:
        size = settings.size("crop_size", used["crop_size"])
        if isinstance(size, int):
            raise settings.error("crop_size must be a number, or have height and width")
        pictures = pictures._replace(crop=size)
    if "crop_pct" in used and resizes:
        pictures = _convnext(settings, used, pictures)
    if scales:
        pictures = pictures._replace(scale=settings.number(used, "rescale_factor"))
    if normalizes:
        mean, std = (settings.channels(used, name) for name in ("image_mean", "image_std"))
        if min(std) <= 0:
            raise settings.error(f"image_std must be positive, got {used['image_std']!r:.60}")
        pictures = pictures._replace(mean=mean, std=std)
    return pictures


def _convnext(settings: _Settings, used: Mapping[str, Any], pictures: Pictures) -> Pictures:
    """Return ConvNeXt's own way: a small size is cut out of a larger one, others are stretched."""
    side = pictures.size
    if not isinstance(side, int) or pictures.crop is not None:
        raise settings.error(
            "size must have a shortest_edge, and do_center_crop must be false, got "
            f"{used['size']!r:.60} and {used['do_center_crop']!r:.60}"
        )
    if side >= STRETCHED:
        return pictures._replace(size=(side, side))
    share = settings.number(used, "crop_pct")
    larger = settings.side("size / crop_pct", int(min(side / share, LONGEST + 1)))
    return pictures._replace(size=larger, crop=(side, side))


def _sounds(settings: _Settings) -> Sounds:
    """Return what settings of sound say."""
    used = settings.complete(KINDS[settings.kind], ONLY_SOUND)
    bands = used["feature_size"]
    if type(bands) is not int or not 1 <= bands <= MOST_BANDS:
        raise settings.error(
            f"feature_size must be a whole number from 1 to {MOST_BANDS}, got {bands!r:.60}"
        )
    return Sounds(bands)


STRETCHED = 384  # ConvNeXt's smallest size that is not cut out
MOST_BANDS = 256
DO = "do_resize", "do_center_crop", "do_rescale", "do_normalize"
HALF = (0.5, 0.5, 0.5)
OF_CLIP = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
# The defaults of each class of transformers.
EACH: dict[str, Any] = {
    "do_resize": True, "size": 224, "default_to_square": True, "resample": 3,
    "do_center_crop": False, "crop_size": 224, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": HALF, "image_std": HALF,
}  # fmt: skip
CLIP = EACH | OF_CLIP | {"do_center_crop": True, "default_to_square": False}
CONVNEXT = {"size": STRETCHED, "default_to_square": False, "crop_pct": 224 / 256}
KINDS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": EACH | {"resample": 2},
    "DeiTImageProcessor": EACH | {"size": 256, "do_center_crop": True},
    "BitImageProcessor": CLIP,
    "CLIPImageProcessor": CLIP,
    "SiglipImageProcessor": EACH | {"size": [224, 224], "default_to_square": False},
    "ConvNextImageProcessor": EACH | CONVNEXT,
    "WhisperFeatureExtractor": {"feature_size": 80},
}
# The class of a model whose settings name none.
BY_MODEL = {
    "vit": "ViTImageProcessor",
    "deit": "DeiTImageProcessor",
    "dinov2": "BitImageProcessor",
    "clip": "CLIPImageProcessor",
    "siglip": "SiglipImageProcessor",
    "convnext": "ConvNextImageProcessor",
    "whisper": "WhisperFeatureExtractor",
}
# Entries that must have one value, if they are given.
ONLY = {
    "auto_map": None, "do_pad": False, "pad_size": None, "do_flip_channel_order": False,
    "do_reduce_labels": False, "reduce_labels": False, "do_thumbnail": False, "offset": False,
    "do_align_long_axis": False, "use_square_size": False, "size_divisor": None,
}  # fmt: skip
ONLY_SOUND = {
    "auto_map": None, "sampling_rate": 16_000, "hop_length": 160, "chunk_length": 30, "n_fft": 400,
    "padding_value": 0.0, "padding_side": "right", "dither": 0.0, "do_normalize": False,
}  # fmt: skip
# Entries without effect: pictures always become red, green and blue, and the rest says how others
# compute it. Whisper's lengths and filters follow from its other entries.
IGNORED = {
    "image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb",
    "_valid_processor_keys", "data_format", "input_data_format", "return_tensors", "device",
    "disable_grouping", "image_seq_length", "model_input_names", "n_samples", "nb_max_frames",
    "mel_filters", "return_attention_mask",
}  # fmt: skip
