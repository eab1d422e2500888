"""CLIP-LoRA: low-rank terms on the attention matrices of both encoders."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from nerp.base.registry import TRAINERS
from nerp.clip.low_rank import LowRank
from nerp.clip.model import Clip, normalise
from nerp.clip.state import State
from nerp.clip.tokenizer import build_prompts
from nerp.clip.towers import Edit
from nerp.settings.keys import choice, listing, number, whole
from nerp.trainers.base import Trainer, precision
from nerp.trainers.lora import POSITIONS, Dropout, adapted_layers
from nerp.trainers.tensors import Tensors

_SCALE = 100.0  # the logit scale, whatever the backbone's is
_TEMPLATE = "a photo of a {}."  # for every dataset
_BLOCKS = {"text": "transformer.resblocks", "vision": "visual.transformer.resblocks"}
_NAMES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "proj"}  # in a checkpoint
# Our names of settings and datasets -> the names in the published file.
_METADATA = {
    "RANK": "r", "ALPHA": "alpha", "ENCODER": "encoder", "PARAMS": "params", "POSITION": "position"
}
_DATASETS = {
    "Caltech101": "caltech101", "DescribableTextures": "dtd", "EuroSAT": "eurosat",
    "FGVCAircraft": "fgvc", "Food101": "food101", "ImageNet": "imagenet",
    "OxfordFlowers": "oxford_flowers", "OxfordPets": "oxford_pets",
    "StanfordCars": "stanford_cars", "SUN397": "sun397", "UCF101": "ucf101",
}


class LoRAEdit(Edit):
    """Terms gamma B A on the attention matrices of some layers, gamma = ALPHA / sqrt(RANK).

    Args: layers: layer -> its number in a checkpoint.
    """

    def __init__(self, trainer: "CLIPLoRA", layers: dict[int, int]):
        self.trainer = trainer
        self.layers = layers
        self.first_layer = min(layers)

    def low_rank(self, layer: int) -> LowRank | None:
        if layer not in self.layers:
            return None
        trainer, place = self.trainer, f"layer_{self.layers[layer]}."
        settings = trainer.settings
        gamma = settings.ALPHA / settings.RANK**0.5
        terms = {
            part: (trainer.parameter(f"{place}{_NAMES[part]}.w_lora_A"),
                   gamma * trainer.parameter(f"{place}{_NAMES[part]}.w_lora_B"))
            for part in settings.PARAMS
        }
        if not trainer.dropping:
            return LowRank(terms)
        return LowRank(terms, lambda part, x: trainer.dropout(place + _NAMES[part], x))


@TRAINERS.register("CLIPLoRA")
class CLIPLoRA(Trainer):
    """Low-rank terms on queries, keys and values of every layer of both encoders.

    Loss: CE(100 f tᵀ). Learned, for each adapted layer and part: A [r, W] and B [W, r].
    See docs/methods/cliplora.md.
    """

    node = "CLIPLORA"
    folder = "CLIPLoRA"
    paper = ("Zanella and Ben Ayed, Low-Rank Few-Shot Adaptation of Vision-Language Models, CVPR "
             "Workshops 2024")
    group = "adapters"
    defaults = {
        "RANK": whole(2, 1, 1024),
        "ALPHA": number(1.0, above=0),
        "DROPOUT": number(0.25, least=0, below=1),
        "PARAMS": listing(["q", "k", "v"], choice(*_NAMES), 1, len(_NAMES)),
        "ENCODER": choice("both", "text", "vision"),
        "POSITION": choice(*POSITIONS),
        "N_ITERS": whole(500, 1, 10**6),
        "PREC": precision("amp"),
    }
    signature = tuple(rf"layer_\d+\.(?:q_|k_|v_|)proj\.w_lora_{leaf}" for leaf in "AB")
    shape_settings = tuple(_METADATA)
    one_entropy = True

    @classmethod
    def unpack(
        cls, content: Mapping[str, object]
    ) -> tuple[dict[str, Tensor], dict[str, object]] | None:
        said, weights = content.get("metadata"), content.get("weights")
        if not (isinstance(said, Mapping) and isinstance(weights, Mapping)):
            return None
        tensors = {
            f"{layer}.{part}.{leaf}": tensor for layer, parts in weights.items()
            for part, leaves in parts.items() for leaf, tensor in leaves.items()
        }
        return tensors, {key: said[name] for key, name in _METADATA.items()}

    @classmethod
    def published_file(cls, cfg: CfgNode) -> str:
        backbone = cfg.MODEL.BACKBONE.NAME.lower().replace("/", "").replace("-", "")
        trained_on = "ImageNet" if cfg.TASK == "CD" else cfg.DATASET.NAME
        dataset, shots = _DATASETS.get(trained_on, trained_on), cfg.DATASET.NUM_SHOTS
        return f"{backbone}/{dataset}/{shots}shots/seed{cfg.SEED}/lora_weights.pt"

    @classmethod
    def infer(cls, tensors: Tensors, settings: CfgNode, clip: Clip) -> dict[str, object]:
        ranks = {len(t) for name, t in tensors.items() if name.endswith(".w_lora_A")}
        found = [part for part, name in _NAMES.items() if f"layer_0.{name}.w_lora_A" in tensors]
        return {"RANK": min(ranks), "PARAMS": found}

    @property
    def scale(self) -> float:
        return _SCALE

    @property
    def steps(self) -> int:
        return int(self.settings.N_ITERS) * max(1, int(self.cfg.DATASET.NUM_SHOTS))

    @property
    def dropping(self) -> bool:
        return bool(self.learned.training and self.settings.DROPOUT)

    def check(self) -> None:
        """Also sets the adapted layers of each encoder, and the dropout."""
        self.dropout = Dropout(self.settings.DROPOUT, self.cfg.SEED)
        self.layers = adapted_layers(self.clip, self.settings.ENCODER, self.settings.POSITION,
                                     f"TRAINER.{self.node}.POSITION")

    def initial(self) -> dict[str, Tensor]:
        rank, tensors = self.settings.RANK, {}
        widths = {"text": self.clip.text.width, "vision": self.clip.image.width}
        for kind, layers in self.layers.items():
            for place in layers.values():
                for part in self.settings.PARAMS:
                    name = f"layer_{place}.{_NAMES[part]}.w_lora"
                    width = widths[kind]
                    tensors[f"{name}_A"] = nn.Linear(width, rank, bias=False).weight
                    tensors[f"{name}_B"] = torch.zeros(width, rank)
        return tensors

    def prepare(self) -> None:
        texts = [_TEMPLATE.format(name) for name in self.classes.names]
        self.text_state = self.constant_text(texts)
        self.frozen_text = self.clip.text_features(texts) if self.text_state is None else None

    def constant_text(self, texts: list[str]) -> State | None:
        """The input of the first adapted layer, which no learned tensor changes; None if no layer
        of the text encoder is adapted."""
        layers = self.layers["text"]
        return self.clip.text_state(build_prompts(texts), layer=min(layers)) if layers else None

    def start_epoch(self, epoch: int) -> None:
        self.dropout.start(epoch)

    def text_features(self, state: State) -> Tensor:
        """t [C, D] of the C texts of `state`."""
        state = state.apart() if self.dropping else state  # each text has its own dropout masks
        edit = LoRAEdit(self, self.layers["text"])
        return self.text_of(self.clip.text.features(state, edit).flatten(0, 1))

    def class_features(self, images: Tensor | None = None) -> Tensor:
        if self.text_state is None:
            assert self.frozen_text is not None
            return self.text_of(self.frozen_text)
        return self.text_features(self.text_state)

    def image_features(self, images: Tensor) -> Tensor:
        layers = self.layers["vision"]
        if not layers:
            return self.image_of(self.clip.image_output(images))
        state = self.clip.image_state(images, min(layers))
        return self.image_of(self.clip.image.features(state, LoRAEdit(self, layers)))

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """The state dict with the terms added to the attention matrices; the logit scale is 100."""
        state = self.clip.model.state_dict()
        for kind, blocks in _BLOCKS.items():
            for layer in self.layers[kind]:
                place = f"{blocks}.{layer - 1}.attn."
                low = LoRAEdit(self, self.layers[kind]).low_rank(layer)
                assert low is not None  # the layer is one of these
                for name, merged in (("in_proj_weight", low.merged),
                                     ("out_proj.weight", low.merged_output)):
                    state[place + name] = merged(state[place + name])
        return {**state, "logit_scale": torch.tensor(self.scale).log()}

    def frozen_prompts(self) -> list[list[str]]:
        return [[_TEMPLATE.format(name)] for name in self.classes.names]

    def tuned_neutral(self) -> Tensor:
        state = self.constant_text([self.classes.neutral])
        if state is None:
            return normalise(self.clip.text_features([self.classes.neutral]))[0]
        return self.text_features(state)[0]
