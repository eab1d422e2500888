"""Backbones by open_clip's names: weights, configuration, image transform, and supported models.

Besides the names of `nerp.clip.loading` there are MODEL:TAG for weights that open_clip lists
(ViT-B-16:laion2b_s34b_b88k), and hf-hub:OWNER/NAME for a repository in its format. open_clip's
loader downloads the weights and caches them. A model that nerp.clip cannot compute exactly is
refused by name, with the reason. An unknown setting of a model is such a reason.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nerp.base.errors import NerpError
from nerp.base.registry import unknown
from nerp.clip.loading import PUBLISHED, SHIPPED
from nerp.clip.modules import Config
from nerp.clip.reach import without_waiting
from nerp.clip.tokenizer import CONTEXT_LENGTH
from nerp.clip.wordpiece import VOCABULARY_FILE
from nerp.files.json_file import read_json

HUB = "hf-hub:"
_VOCABULARY = 49_408  # the size of CLIP's vocabulary
# Settings of open_clip's models that nerp.clip follows, or that have no effect in tests.
_VISION = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size",
           "ls_init_value", "patch_dropout", "no_ln_pre", "pos_embed_type", "final_ln_after_pool",
           "output_tokens", "act_kwargs", "norm_kwargs", "timm_pool", "timm_proj"}
_TEXT = {"width", "heads", "layers", "mlp_ratio", "ls_init_value", "pad_id", "eos_id",
         "output_tokens", "act_kwargs", "norm_kwargs"}
_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale",
          "init_logit_bias", "nonscalar_logit_scale", "output_dict"}
# The beginning of a tag -> the licence of the weights. Sources: the model cards on Hugging Face
# (laion/CLIP-*, timm/*, facebook/metaclip-*, apple/DFN*); for weights in open_clip's releases,
# answers of its maintainers. OpenAI's weights have no stated licence. Other tags are unknown.
_LICENCES = {
    "laion": "MIT", "datacomp": "MIT", "commonpool": "MIT", "yfcc15m": "MIT", "cc12m": "MIT",
    "metaclip": "CC-BY-NC-4.0", "dfn": "Apple's own (apple-amlr)",
    "openai": "not stated; that of the code is MIT",
}

# Its configuration is known here, so that a copy of its weights can be used without a network.
BIOMEDCLIP = HUB + "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
_BERT = {"hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "mlp"}
_TIMM = {"timm_pool": "", "timm_proj": "linear"}
_BIOMEDCLIP: Config = {
    "embed_dim": 512,
    "vision_cfg": {"timm_model_name": "vit_base_patch16_224", **_TIMM, "image_size": 224},
    "text_cfg": {"hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
                 **_BERT, "context_length": 256},
}


@dataclass(frozen=True)
class Backbone:
    """A named backbone.

    Attributes:
        fetch: returns the file of the weights, downloaded if necessary.
        config: open_clip's configuration of the model; None: it is read from the weights.
        activation: "quick_gelu" or "gelu", as in pre-training; "auto": the weights decide.
        preprocess: open_clip's image transform: mean, std, interpolation, resize_mode.
    """

    name: str
    fetch: Callable[[], Path]
    config: Config | None = None
    activation: str = "auto"
    preprocess: Config = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, object]:
        """The settings of the node INPUT for the images of this backbone; {} if they are not
        known."""
        names = {"mean": "PIXEL_MEAN", "std": "PIXEL_STD", "interpolation": "INTERPOLATION",
                 "resize_mode": "RESIZE_MODE"}
        return {f"INPUT.{names[key]}": list(value) if isinstance(value, tuple) else value
                for key, value in self.preprocess.items() if key in names}


def find_backbone(name: str) -> Backbone:
    """The backbone of an open_clip name, which has a colon.

    Raises NerpError for a name that does not exist, or of a model that nerp.clip cannot run.
    """
    if name == BIOMEDCLIP:
        return Backbone(name, lambda: _weights(name), _BIOMEDCLIP)
    return _from_hub(name) if name.startswith(HUB) else _tagged(name)


def _tagged(name: str) -> Backbone:
    from open_clip import list_pretrained_tags_by_model
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    model, _, tag = name.partition(":")
    config = model_config(model)
    weights = get_pretrained_cfg(model, tag)
    if not weights:
        tags = list_pretrained_tags_by_model(model)
        if not tags:
            raise NerpError(f"backbone {name}: open_clip lists no weights of {model}")
        raise unknown(f"weights of {model}", tag, tags)

    def fetch() -> Path:
        where = f"https://huggingface.co/{weights['hf_hub']}" if weights.get("hf_hub") else \
            weights.get("url", "")
        return _fetched(name, where, lambda: download_pretrained(weights))

    activation = "quick_gelu" if weights.get("quick_gelu") else "gelu"
    return Backbone(name, fetch, config, activation, weights)


def _from_hub(name: str) -> Backbone:
    from open_clip.pretrained import download_pretrained_from_hf

    repository = name.removeprefix(HUB)
    where = f"https://huggingface.co/{repository}"
    file = _fetched(name, where, lambda: download_pretrained_from_hf(
        repository, filename="open_clip_config.json"))
    content: dict[str, Any] = {**read_json(file)}  # what is in it is checked here
    try:
        config, preprocess = content["model_cfg"], content.get("preprocess_cfg", {})
        preprocess = {**preprocess}
        reason = reason_against(config)
    except (LookupError, TypeError, AttributeError, ValueError):
        raise NerpError(f"backbone {name}: {file} is no open_clip configuration") from None
    if reason:
        raise NerpError(f"backbone {name} cannot be used: {reason}")
    return Backbone(
        name, lambda: _weights(name), config, "quick_gelu" if config.get("quick_gelu") else "gelu",
        preprocess,
    )


def _weights(name: str) -> Path:
    """The weights file of a backbone on the hub. If its text encoder is a BERT, the vocabulary is
    downloaded beside it."""
    from open_clip.pretrained import download_pretrained_from_hf

    repository = name.removeprefix(HUB)
    where = f"https://huggingface.co/{repository}"
    if name == BIOMEDCLIP:
        _fetched(name, f"{VOCABULARY_FILE} and the weights of {where}",
                 lambda: download_pretrained_from_hf(repository, filename=VOCABULARY_FILE))
    return _fetched(name, where, lambda: download_pretrained_from_hf(repository))


def _fetched(name: str, where: str, download: Callable[[], str]) -> Path:
    try:
        with without_waiting():
            return Path(download())
    except Exception as error:  # the network, two libraries' errors
        reason = " ".join(str(getattr(error, "reason", error)).split())[:200]
        raise NerpError(f"backbone {name} could not be fetched ({reason}). Fetch {where} where "
                        "there is a network, and give the file as MODEL.BACKBONE.PATH beside this "
                        "name") from None


def model_config(model: str) -> Config:
    """open_clip's configuration of a model by name.

    Raises NerpError for a model that does not exist, or that nerp.clip cannot run.
    """
    from open_clip.factory import get_model_config

    config: Config | None = get_model_config(PUBLISHED.get(model, model))
    if config is None:
        raise unknown("backbone", model, [*PUBLISHED, *SHIPPED, *supported()])
    if reason := reason_against(config):
        raise NerpError(f"backbone {model} cannot be used: {reason}")
    return config


def supported() -> list[str]:
    """The names of open_clip's models that have weights and that nerp.clip can run."""
    from open_clip import list_models, list_pretrained_tags_by_model
    from open_clip.factory import get_model_config

    return [model for model in list_models()
            if list_pretrained_tags_by_model(model) and not reason_against(get_model_config(model))]


def licence(tag: str) -> str:
    """The licence of the weights with a tag, or a text that begins with "unknown"."""
    known = (text for start, text in _LICENCES.items() if tag.startswith(start))
    return next(known, "unknown, see the model card")


def reason_against(config: Config) -> str:
    """The reason, in words, why nerp.clip cannot run a model exactly; "" if it can.

    Args: config: open_clip's configuration of the model.
    """
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    vision, text = config["vision_cfg"], config["text_cfg"]
    if config == _BIOMEDCLIP:
        return ""
    if vision.get("timm_model_name"):
        return (f"its image encoder is timm's {vision['timm_model_name']}, not CLIP's vision "
                "transformer, whose layers the methods reach into")
    if "multimodal_cfg" in config:
        return "it writes captions (CoCa): its encoders pool by attention"
    if text.get("hf_model_name"):
        return f"its text encoder is {text['hf_model_name']}, not CLIP's"
    if text.get("hf_tokenizer_name"):
        return f"its prompts are tokenised as {text['hf_tokenizer_name']} does, not as CLIP does"
    length, vocabulary = (text.get("context_length", CONTEXT_LENGTH),
                          text.get("vocab_size", _VOCABULARY))
    if (length, vocabulary) != (CONTEXT_LENGTH, _VOCABULARY):
        return (f"its prompts are {length} of {vocabulary:,} tokens, those of CLIP are "
                f"{CONTEXT_LENGTH} of {_VOCABULARY:,}")
    for part, given, known, standard in (
        ("", config, _MODEL, {}),
        ("vision_cfg.", vision, _VISION, asdict(CLIPVisionCfg())),
        ("text_cfg.", text, _TEXT, asdict(CLIPTextCfg())),
    ):
        for key, value in given.items():
            if key not in known and value != standard.get(key):
                return f"its {part}{key} is {value!r}, which the encoders here do not compute"
    return ""
