"""Loading a CLIP backbone from any of the known file formats.

The published OpenAI weights go through open_clip's own download and cache (`~/.cache/clip`, where
OpenAI's package keeps them too). A file may be an OpenAI TorchScript archive, a plain state dict
with OpenAI's names or transformers', an open_clip training checkpoint, or safetensors; the
architecture is read from the tensors.
"""

import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.registry import unknown
from nerp.clip import bert
from nerp.clip.modules import CLIP, HEAD_WIDTH, HEAD_WIDTHS, Config, Sizes
from nerp.clip.renamed import (
    config_beside,
    has_transformers_names,
    stated_activation,
    with_openai_names,
)
from nerp.clip.tokenizer import CONTEXT_LENGTH, VOCABULARY
from nerp.clip.wordpiece import read_tokenizer
from nerp.files.opening import reading
from nerp.files.tensors import load_inert, load_safetensors

Model = CLIP | bert.BertCLIP  # CLIP may be open_clip's class, which has the same names
M = TypeVar("M", bound=nn.Module)

# NAME in a configuration -> open_clip's name for the published weights.
PUBLISHED = {
    "ViT-B/16": "ViT-B-16",
    "ViT-B/32": "ViT-B-32",
    "ViT-L/14": "ViT-L-14",
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-L/14@336px": "ViT-L-14-336",
}
UNSAID = "gelu, unsaid"  # the activation of an open_clip training checkpoint, which names none
_WEIGHTS = Path(__file__).resolve().parent.parent / "demo" / "weights"
# The backbones that ship with the package: see nerp/demo.
SHIPPED = {name: _WEIGHTS / f"{name}.safetensors" for name in ("tiny", "tiny-biased")}

# Tensors that a file may hold but no prediction needs: the causal mask, which the text encoder
# computes itself, and the bias of a sigmoid loss, which is the same for every class.
_IDLE = ("attn_mask", "logit_bias")

# Far above any published CLIP. A file with larger sizes is refused before it can fill the memory.
_WIDEST, _DEEPEST, _LONGEST = 16_384, 256, 2**20
_MOST_PATCHES = 1024  # per side


def weights_file(name: str, path: str = "") -> Path:
    """The file of weights for a name of `PUBLISHED` or `SHIPPED`, or for a path. It is downloaded
    if necessary.

    Raises NerpError for an unknown name, a missing file, or a failed download.
    """
    if path:
        file = Path(path).expanduser()
        if not file.is_file():
            raise NerpError(f"MODEL.BACKBONE.PATH: no file {file}; expected CLIP weights: OpenAI's "
                            "archive (.pt), a state dict, an open_clip checkpoint or safetensors")
        return file
    if name in SHIPPED:
        return SHIPPED[name]
    if name not in PUBLISHED:
        more = " (nerp backbones lists open_clip's, which have a colon)"
        raise NerpError(f"{unknown('backbone', name, [*PUBLISHED, *SHIPPED])}{more}")
    return _download(name)


def _download(name: str) -> Path:
    from open_clip.pretrained import download_pretrained_from_url, get_pretrained_url

    url = get_pretrained_url(PUBLISHED[name], "openai")
    target = Path("~/.cache/clip").expanduser() / url.rsplit("/", 1)[1]
    try:
        return Path(download_pretrained_from_url(url))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise NerpError(f"the weights of CLIP {name} could not be fetched ({reason}). Fetch {url} "
                        f"where there is a network and put it at {target}, or give any copy as "
                        "MODEL.BACKBONE.PATH FILE") from None


def load_model(
    file: Path, activation: str = "auto", config: Config | None = None, size: int = 0
) -> Model:
    """A frozen CLIP in float32 on the CPU, in evaluation mode. It is open_clip's module if it is
    not plain: a ResNet, a model by open_clip's name, with other heads, or for another image size.

    Args:
        file: weights, as `weights_file` finds them.
        activation: "quick_gelu", "gelu", or "auto": the one that the file names, else QuickGELU for
            OpenAI's names and GELU for an open_clip training checkpoint.
        config: open_clip's configuration of the model; by default it is read from the tensors.
        size: side of the images in pixels, for which the position embeddings are interpolated as
            open_clip does; 0: the size of the weights.

    Raises NerpError, naming the file, if it cannot be read as CLIP weights.
    """
    tensors, says = _read(file)
    stated_in: Path | None = None
    if has_transformers_names(tensors):
        stated_in = config_beside(file)
        tensors, says = with_openai_names(tensors, file), stated_activation(stated_in)
    if activation == "auto" and says == UNSAID:
        say(f"{file} does not say its activation: GELU, as in open_clip's own training; weights "
            "fine-tuned from OpenAI's need MODEL.BACKBONE.ACTIVATION quick_gelu")
    quick = (says if activation == "auto" else activation) == "quick_gelu"
    with reading(file, "CLIP weights"):
        model = _build(tensors, quick, file, config, size)
    model.stated_in = stated_in  # a second file that settings were read from
    return model


def _read(file: Path) -> tuple[dict[str, Tensor], str]:
    """The named float tensors in a file, and the activation it was trained with."""
    activation = "quick_gelu"
    content: object
    if file.suffix == ".safetensors":
        tensors, metadata = load_safetensors(file)
        activation = metadata.get("activation", activation)
        if "token_embedding.rows" in tensors:
            tensors["token_embedding.weight"] = _all_rows(tensors, file)
        content = tensors
    else:
        content = load_inert(file)
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content, activation = content["state_dict"], UNSAID
    if not isinstance(content, dict):
        raise NerpError(f"{file}: holds a {type(content).__name__}, expected named tensors")
    # DistributedDataParallel adds the prefix module., open_clip's custom-text models text.
    return {
        name.removeprefix("module.").removeprefix("text."): tensor.detach()
        for name, tensor in content.items()
        if isinstance(name, str) and isinstance(tensor, Tensor) and tensor.is_floating_point()
    }, activation


def _all_rows(tensors: dict[str, Tensor], file: Path) -> Tensor:
    """CLIP's whole token table [vocabulary, W] from a file that keeps only the rows it uses."""
    rows, places = tensors["token_embedding.weight"], tensors.pop("token_embedding.rows")
    if rows.dim() != 2 or rows.shape[1] > _WIDEST or places.shape != rows.shape[:1] or (
            places.is_floating_point() or not ((places >= 0) & (places < VOCABULARY)).all()):
        raise NerpError(f"{file}: token_embedding.rows does not name the rows of "
                        "token_embedding.weight")
    table = rows.new_zeros(VOCABULARY, rows.shape[1])
    return table.index_copy_(0, places.long(), rows)


def _build(
    tensors: dict[str, Tensor], quick_gelu: bool, file: Path, config: Config | None, size: int
) -> Model:
    build: Callable[[int, Sizes, Sizes, bool], CLIP] = _open_clips
    if bert.is_bert(tensors):
        return _build_bert(tensors, file, size)
    if config is not None:
        vision, text = dict(config["vision_cfg"]), dict(config["text_cfg"])
        embed = config["embed_dim"]
        _check_stated(vision, text, embed, file)
    else:
        vision, text, embed = _architecture(tensors, file)
        unusual = _unusual(tensors, vision)
        vision |= unusual
        if "patch_size" in vision and not unusual and not size:
            build = CLIP
    if size:
        vision["image_size"] = _fitting(size, vision, tensors, file)
    with torch.device("meta"):
        model = build(embed, vision, text, quick_gelu)
    if size:
        from open_clip.model import resize_pos_embed

        resize_pos_embed(tensors, model)
    if config is not None and tensors.get("logit_scale", torch.empty(0)).shape == (1,):
        tensors["logit_scale"] = tensors["logit_scale"][0]
    return _filled(model, tensors, file, named=config is not None)


def _build_bert(tensors: dict[str, Tensor], file: Path, size: int) -> bert.BertCLIP:
    """A model in BiomedCLIP's form. Its architecture is read from the tensors, even if the backbone
    is given by name."""
    if size:
        raise NerpError(f"{file}: MODEL.BACKBONE.INTERPOLATE: only CLIP's own vision transformer "
                        "takes images of another size than its own; this is timm's")
    model = _filled(bert.build(tensors, file), bert.without_idle(tensors), file, named=False)
    model.tokenizer = read_tokenizer(file, model.transformer.config.vocab_size)
    return model


def _filled(model: M, tensors: dict[str, Tensor], file: Path, named: bool) -> M:
    """The module filled with the tensors of a file, in float32, frozen. named: whether the module's
    sizes come from a backbone's name. Raises NerpError if the tensors do not fit the module."""
    wanted = model.state_dict()
    missing = [n for n in wanted if n not in tensors and wanted[n].is_floating_point()]
    if missing:
        raise NerpError(f"{file}: not a whole CLIP model: it lacks {_some(missing)}")
    more = sorted(n for n in tensors if n not in wanted and n.rpartition(".")[2] not in _IDLE)
    if more:
        advice = ("plain CLIP does not have; MODEL.BACKBONE.NAME beside the file says what else it "
                  "is (nerp backbones)" if not named else "no backbone of that name has")
        raise NerpError(f"{file}: it holds {_some(more)}, which {advice}")
    wrong = [n for n in wanted if n in tensors and tensors[n].shape != wanted[n].shape]
    if wrong:
        found, expected = tuple(tensors[wrong[0]].shape), tuple(wanted[wrong[0]].shape)
        implied = "the other tensors imply" if not named else "the backbone's name implies"
        raise NerpError(f"{file}: {wrong[0]} is {found}, {implied} {expected}")
    table, places = "token_embedding.weight", "positional_embedding"
    words, longest = (len(wanted[name]) if table in wanted else VOCABULARY
                      for name in (table, places))
    if words < VOCABULARY or longest < CONTEXT_LENGTH:
        raise NerpError(f"{file}: {words:,} token embeddings, for texts of {longest} tokens; "
                        f"CLIP's tokenizer needs {VOCABULARY:,} and {CONTEXT_LENGTH}")
    for name in wanted:
        if name not in tensors:  # batch-norm counters: integers that inference never reads
            tensors[name] = torch.zeros_like(wanted[name], device="cpu")
    weights = {name: tensors[name].to(wanted[name].dtype) for name in wanted}
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise NerpError(f"{file}: {name} holds numbers that are not finite: a damaged file, or "
                            "a model whose training failed")
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _open_clips(embed: int, vision: Sizes, text: Sizes, quick_gelu: bool) -> CLIP:
    from open_clip.model import CLIP as Theirs
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    text = {**_heads(text), **text}
    model: CLIP = Theirs(embed, CLIPVisionCfg(**vision), CLIPTextCfg(**text), quick_gelu=quick_gelu)
    del model.attn_mask  # it is on the meta device, and nerp.clip.towers computes its own
    return model


def _unusual(tensors: Mapping[str, Tensor], vision: Sizes) -> Sizes:
    """The settings, under open_clip's names, in which a vision transformer's blocks differ from
    OpenAI's."""
    width: int = vision["width"]
    found: Sizes = {}
    if "patch_size" not in vision:
        return found
    if width in HEAD_WIDTHS:
        found["head_width"] = HEAD_WIDTHS[width]
    hidden = tensors.get("visual.transformer.resblocks.0.mlp.c_fc.bias")
    if hidden is not None and hidden.shape != (4 * width,) and hidden.dim() == 1:
        # Slightly larger, because open_clip rounds width * mlp_ratio down.
        found["mlp_ratio"] = (len(hidden) + 0.01) / width
    return found


def _check_stated(vision: Sizes, text: Sizes, embed: object, file: Path) -> None:
    """Raise NerpError if a configuration states a size that no model has. Its modules and position
    embeddings would fill the memory before the tensors could be compared."""
    depth, pixels = vision.get("layers", 1), vision.get("image_size", 224)
    sides = pixels if isinstance(pixels, list | tuple) else [pixels]
    patch = vision.get("patch_size") or 16  # of a ResNet None
    stated = [(size, _DEEPEST) for size in (depth if isinstance(depth, list) else [depth])]
    stated += [(text.get("layers", 1), _DEEPEST), (embed, _WIDEST), (patch, _WIDEST)]
    stated += [(part.get("width", 64), _WIDEST) for part in (vision, text)]
    stated += [(side, _WIDEST) for side in sides]
    if not all(type(size) is int and 0 < size <= most for size, most in stated) or (
            max(sides) / patch > _MOST_PATCHES):
        raise NerpError(f"{file}: its configuration is of a model larger than any, or of none")


def _fitting(size: int, vision: Sizes, tensors: Mapping[str, Tensor], file: Path) -> int:
    """`size`, if position embeddings can be interpolated to it."""
    if "visual.layer1.0.conv1.weight" in tensors:
        raise NerpError(f"{file}: only a vision transformer takes images of another size than its "
                        "own; this is a ResNet")
    patch = vision.get("patch_size", 16)
    if size % patch:
        raise NerpError(f"INPUT.SIZE is {size}; this backbone takes multiples of its patches' "
                        f"{patch} pixels")
    return size


def _architecture(tensors: dict[str, Tensor], file: Path) -> tuple[Sizes, Sizes, int]:
    """The sizes of both encoders and the joint width D, from the tensors' shapes."""
    try:
        text_width = tensors["ln_final.weight"].shape[0]
        text = {
            "context_length": tensors["positional_embedding"].shape[0],
            "vocab_size": tensors["token_embedding.weight"].shape[0],
            "width": text_width,
            "layers": _count(tensors, "transformer.resblocks."),
        }
        if "visual.layer1.0.conv1.weight" in tensors:
            tokens = tensors["visual.attnpool.positional_embedding"].shape[0] - 1
            vision: Sizes = {
                "layers": tuple(_count(tensors, f"visual.layer{i}.") for i in range(1, 5)),
                "width": tensors["visual.layer1.0.conv1.weight"].shape[0],
                "image_size": 32 * round(tokens**0.5),
            }
            widths = [text_width]
        else:
            width, _, patch, _ = tensors["visual.conv1.weight"].shape
            tokens = tensors["visual.positional_embedding"].shape[0] - 1
            vision = {
                "layers": _count(tensors, "visual.transformer.resblocks."),
                "width": width,
                "patch_size": patch,
                "image_size": patch * round(tokens**0.5),
            }
            widths = [text_width, width]
        embed = tensors["text_projection"].shape[1]
    except KeyError as error:
        raise NerpError(f"{file}: not CLIP weights: there is no tensor {error}; expected OpenAI's "
                        f"names, found {_some(sorted(tensors)) or 'no tensors'}") from None
    depths = vision["layers"] if isinstance(vision["layers"], tuple) else (vision["layers"],)
    sizes = ((*widths, embed), _WIDEST), ((*depths, text["layers"]), _DEEPEST), (
        (text["context_length"], text["vocab_size"], vision["image_size"]), _LONGEST)
    if not all(0 < size <= most for found, most in sizes for size in found):
        raise NerpError(f"{file}: not CLIP weights: its tensors are of a model larger than any, or "
                        "of none")
    for width in widths:
        if width not in HEAD_WIDTHS and width % HEAD_WIDTH:
            raise NerpError(f"{file}: width {width} is no multiple of {HEAD_WIDTH}, the width of "
                            "an attention head in CLIP")
    return vision, text, embed


def stated_sizes(tensors: dict[str, Tensor], file: Path) -> tuple[Sizes, Sizes, int]:
    """The sizes vision_cfg and text_cfg, as open_clip calls them, and the joint width of a model.
    Raises NerpError, naming the file, where its tensors are of none."""
    vision, text, embed = _architecture(tensors, file)
    return vision | _unusual(tensors, vision), {**text, **_heads(text)}, embed


def _heads(text: Sizes) -> dict[str, int]:
    return {"heads": text.get("width", 512) // HEAD_WIDTH}


def _count(tensors: dict[str, Tensor], prefix: str) -> int:
    depth = prefix.count(".")
    return len({name.split(".")[depth] for name in tensors if name.startswith(prefix)})


def _some(names: list[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
