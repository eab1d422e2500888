"""A frozen CLIP that a method can edit: two encoders, a logit scale and a precision."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerp.base.errors import NerpError
from nerp.clip.backbones import find_backbone
from nerp.clip.bert import BertCLIP, BertEncoder
from nerp.clip.device import place
from nerp.clip.encoders import ImageEncoder, Opaque, TextEncoder
from nerp.clip.loading import Model, load_model, weights_file
from nerp.clip.modules import Config
from nerp.clip.tokenizer import Prompts, Tokenizer, build_prompts, clip_tokenizer
from nerp.clip.towers import TextTower, VisionTower
from nerp.clip.whole import ResNetEncoder, WholeEncoder
from nerp.clip.wordpiece import vocabulary_beside
from nerp.files.digest import content_digest, read_digested

_CACHE = 20 * 2**20  # bytes of a CPU's last-level cache


@dataclass(frozen=True)
class Precision:
    """The data types that a value of TRAINER.<METHOD>.PREC stands for.

    Attributes:
        weights: the type of the frozen matrices, and of matrix products.
        stream: the type of the text activations between blocks (vision keeps the products').
        scaled: whether the loss is scaled before the backward pass.
    """

    weights: torch.dtype
    stream: torch.dtype
    scaled: bool = False


PRECISIONS = {
    "fp32": Precision(torch.float32, torch.float32),
    "fp16": Precision(torch.float16, torch.float16),
    "amp": Precision(torch.float16, torch.float32, scaled=True),
    "bf16": Precision(torch.bfloat16, torch.float32),
}


def normalise(x: Tensor) -> Tensor:
    """x / |x| over the last axis, in float32."""
    return F.normalize(x.float(), dim=-1)


class Clip:
    """A frozen CLIP on one device and in one precision.

    Attributes:
        text, image: the encoders. scale: exp(logit_scale), a float. size: image side in pixels.
        embed_dim: D, the joint width. description: one line for the log.
    """

    def __init__(
        self,
        model: Model,
        precision: str,
        device: torch.device,
        name: str,
        digest: str = "",
    ):
        """Args:
        model: from `loading.load_model`, or open_clip's; it is moved and cast in place.
        digest: of its weights; "" if no results are kept under it.
        """
        self.name = name
        self.digest = digest
        self.device = device
        self.precision = PRECISIONS[precision]
        self.scale = float(model.logit_scale.detach().float().exp())
        self.model = _cast(model, self.precision.weights).to(device)
        self._tokenizer: Tokenizer | None = getattr(model, "tokenizer", None)
        self.text: TextEncoder
        self.image: ImageEncoder
        if isinstance(model, BertCLIP):
            self.text = BertEncoder(model)
            self.image = WholeEncoder(model.visual, "timm's vision transformer")
            self.embed_dim = model.sizes.embed
        else:
            self.text = TextTower(model)
            transformer = hasattr(model.visual, "transformer")
            self.image = VisionTower(model) if transformer else ResNetEncoder(model.visual)
            self.embed_dim = model.text_projection.shape[1]
        size = model.visual.image_size
        self.size = size if isinstance(size, int) else size[0]

    @property
    def vision(self) -> VisionTower:
        """`image`, for methods that reach into its layers (`Method.edits`)."""
        assert isinstance(self.image, VisionTower)
        return self.image

    @property
    def tokenizer(self) -> Tokenizer:
        """The text encoder's tokenizer."""
        return self._tokenizer or clip_tokenizer()

    @property
    def activation(self) -> str:
        """The class name (QuickGELU, GELU) of the activation in the text encoder's blocks; "" if
        no method can edit its blocks."""
        return type(self.text.blocks[0].mlp.gelu).__name__ if isinstance(
            self.text, TextTower) else ""

    @property
    def patch(self) -> int:
        """The side of a patch in pixels. Only CLIP's vision transformer has it."""
        return int(self.vision.visual.conv1.kernel_size[0])

    @property
    def description(self) -> str:
        count = sum(p.numel() for p in self.model.parameters())
        width = f"D = {self.embed_dim}"
        if kind := self.activation:
            what = f"{self.image.depth or 'ResNet'}/{self.text.depth} layers, {width}, {kind}"
        else:
            what = f"{self.image.kind} and {self.text.kind}, {width}"
        return (f"backbone {self.name}: {count / 1e6:.1f} M parameters, {self.size} pixels, "
                f"{what}, matrices in {str(self.precision.weights).removeprefix('torch.')}")

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Matrix products in the precision's type; a method's own layers need no casts."""
        if self.precision.weights == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision.weights)

    def text_state(self, prompts: Prompts, ctx: Tensor | None = None, layer: int = 1) -> Opaque:
        """The input of `layer` for `prompts`, with context vectors in their slots if given.

        With `layer` > 1 it is a constant (no gradient): the frozen layers before it are applied.
        """
        state = self.text.embed(prompts.to(self.device), self.precision.stream, ctx)
        return self.text.advance(state, layer)

    def image_state(self, images: Tensor, layer: int = 1) -> Opaque:
        """The input of `layer` for images [B, 3, H, W], the frozen layers before it applied."""
        return self.image.advance(self.image.embed(images), layer)

    @torch.no_grad()
    def text_features(self, texts: list[str], cut: bool = False) -> Tensor:
        """Frozen features [C, D] of C texts, float32, not normalised; `cut`: see `tokenize`."""
        with self.autocast():
            prompts = build_prompts(texts, cut=cut, tokenizer=self.tokenizer)
            return self.text.features(self.text_state(prompts))[0].float()

    def image_features(self, images: Tensor) -> Tensor:
        """Frozen features [B, D] of images [B, 3, H, W], float32, normalised."""
        return normalise(self.image_output(images))

    @torch.no_grad()
    def image_output(self, images: Tensor) -> Tensor:
        """The image encoder's outputs [B, D] for images [B, 3, H, W], float32, not normalised."""
        with self.autocast():
            if torch.compiler.is_compiling():  # one graph for any number of images
                return self.image.features(self.image_state(images)).float()
            parts = images.split(self._images_at_once(images))
            return torch.cat([self.image.features(self.image_state(x)) for x in parts]).float()

    @torch.no_grad()
    def image_tokens(self, images: Tensor) -> Tensor:
        """Frozen features [B, 1 + M, D], float32, not normalised: first the image feature, then
        those of the image's M places (`all_features` of the encoder)."""
        assert isinstance(self.image, VisionTower | ResNetEncoder)  # `require_tokens`
        with self.autocast():
            parts = images.split(self._images_at_once(images))
            return torch.cat([self.image.all_features(x) for x in parts]).float()

    def require_tokens(self, who: str) -> None:
        """Raise NerpError, beginning with `who`, for an image encoder without features of
        places."""
        if not isinstance(self.image, VisionTower | ResNetEncoder):
            raise NerpError(f"{who}: it matches features of an image's places, and this backbone's "
                            f"image encoder, {self.image.kind}, gives none")

    def _images_at_once(self, images: Tensor) -> int:
        """The number of images to encode together. On a CPU their widest activations fit into its
        cache, which saves a sixth of the time of a large batch."""
        if self.device.type != "cpu" or not isinstance(self.image, VisionTower) or (
                torch.compiler.is_compiling()):
            return max(1, images.shape[0])
        patches = (self.size // self.patch) ** 2
        widest = 4 * self.image.width * patches * 4  # bytes per image: an MLP's, in float32
        return max(1, _CACHE // widest)


def _cast(model: Model, dtype: torch.dtype) -> Model:
    """The model with its matrices cast to `dtype` in place; norms, embeddings and the scale stay in
    float32."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(dtype)
        elif isinstance(module, nn.MultiheadAttention):
            for parameter in module.parameters():
                parameter.data = parameter.data.to(dtype)
    for owner, name in ((model, "text_projection"), (model.visual, "proj")):
        if getattr(owner, name, None) is not None:
            getattr(owner, name).data = getattr(owner, name).data.to(dtype)
    return model


def pick_device(use_cuda: bool) -> torch.device:
    """The device for this process: with `use_cuda` CUDA or else Apple's GPU, if there is one;
    otherwise the CPU."""
    if use_cuda and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if use_cuda and torch.backends.mps.is_available() else "cpu")


def usable_precision(precision: str, device: torch.device) -> str:
    """The precision of a run on a device: `precision` if the device supports it, else "fp32". Half
    precision needs CUDA; bfloat16 needs CUDA or a CPU."""
    weights = PRECISIONS[precision].weights
    fits = device.type == "cuda" or weights == torch.float32 or (
        device.type == "cpu" and weights == torch.bfloat16)
    return precision if fits else "fp32"


# Backbones read ahead: (file, its state, activation) -> model, digest.
_ahead: dict[tuple[str | int, ...], tuple[Model, str]] = {}


def read_ahead(name: str, path: str, activation: str) -> None:
    """Read a backbone in advance, for `build_clip` in processes that are forked from this one.

    Only the last backbone is kept. Raises NerpError as `build_clip` does.
    """
    file, activation, config = _resolve(name, path, activation)
    key = _state(file, activation, name)
    if key not in _ahead:
        _ahead.clear()
        _ahead[key] = _read(file, lambda file: load_model(file, activation, config))


def _resolve(name: str, path: str, activation: str) -> tuple[Path, str, Config | None]:
    """The file of a backbone's weights, its activation, and open_clip's configuration of it."""
    if ":" not in name:
        return weights_file(name, path), activation, None
    backbone = find_backbone(name)
    file = weights_file(name, path) if path else backbone.fetch()
    return file, backbone.activation if activation == "auto" else activation, backbone.config


def _state(file: Path, activation: str, name: str) -> tuple[str | int, ...]:
    """A key that is equal for two readings of a file if they give the same model."""
    stat = file.stat()
    return str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, activation, name


def _read(file: Path, load: Callable[[Path], Model]) -> tuple[Model, str]:
    """A backbone, and the digests of the files it was read from: the weights, and a vocabulary or
    configuration beside them. Raises NerpError as `load` does, and if a file changes meanwhile."""
    model, digest = read_digested(file, load)
    beside = filter(None, (vocabulary_beside(file), model.stated_in))
    return model, " ".join([digest, *map(content_digest, beside)])


def build_clip(
    name: str, path: str, activation: str, precision: str, device: torch.device, size: int = 0
) -> tuple[Clip, list[str]]:
    """A `Clip`, and the lines about it for the log.

    Args: size: side of the images in pixels; 0: the size that the weights were trained for.

    Raises NerpError for weights that cannot be found, downloaded or read, and for an unknown
    precision.
    """
    if precision not in PRECISIONS:
        raise NerpError(f"precision {precision!r}: one of {', '.join(PRECISIONS)}")
    notes, asked = [], precision
    precision = usable_precision(asked, device)
    if precision != asked:
        notes.append(f"precision {asked} is not computed on this {place(device)}: the run is in "
                     f"{precision}")
    file, activation, config = _resolve(name, path, activation)
    # A Clip changes its model in place, so each model is used only once.
    ready = None if size else _ahead.pop(_state(file, activation, name), None)
    model, digest = ready or _read(
        file, lambda file: load_model(file, activation, config, size)
    )
    clip = Clip(model, precision, device, Path(path).name or name, digest)
    return clip, [*notes, clip.description]
