"""ANPrompt: MMRL's tokens plus cluster centres of noisy text features. The features of sentences
form a second classifier."""

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.registry import TRAINERS
from nerp.clip.device import in_float64
from nerp.clip.model import Clip, normalise
from nerp.data.sentences import read_sentences, substitute_sentences
from nerp.settings.keys import file, listing, number, whole
from nerp.trainers.base import precision
from nerp.trainers.inserted import InsertedTokens, equal_maps, last_layers
from nerp.trainers.tensors import EMBEDDING_STD, Tensors

_TOKENS = "prompt_learner.tokens"
_PROJ = "image_encoder.proj_prompt"
_NOISE = "prompt_learner.noise_prompts"
_DRAWN = "prompt_learner.drawn"
_MAPS = {"v": "prompt_learner.vision_maps.{}", "t": "prompt_learner.text_maps.{}"}
_ROUNDS = 100  # the most iterations of K-means
_TINY = 1e-6


def noise_prompts(features: Tensor, count: int) -> Tensor:
    """Centres [count, D] of a deterministic K-means over features [C, D].

    The first initial centre is the row nearest to the mean. Each next one is the row farthest from
    the centres chosen so far. If there are fewer rows than centres, the rows are repeated.
    """
    if len(features) < count:
        return features[torch.arange(count, device=features.device) % len(features)]
    rows = in_float64(features.detach())
    centres = rows[_distances(rows, rows.mean(0, keepdim=True)).argmin(0)]
    for _ in range(count - 1):
        farthest = _distances(rows, centres).amin(1).argmax().view(1)
        centres = torch.cat([centres, rows[farthest]])
    numbers = torch.arange(count, device=rows.device)
    for _ in range(_ROUNDS):  # after convergence further rounds change nothing
        own = (_distances(rows, centres).argmin(1)[:, None] == numbers).double()
        sizes = own.sum(0)[:, None]
        centres = torch.where(sizes > 0, own.t() @ rows / sizes.clamp(min=1), centres)
    return centres.to(features)


def _distances(rows: Tensor, centres: Tensor) -> Tensor:
    """Squared distances [C, K] of rows [C, D] from centres [K, D]."""
    return (rows[:, None] - centres).square().sum(2)


@TRAINERS.register("ANPrompt")
class ANPrompt(InsertedTokens):
    """Tokens P_c + ε P_w are mapped into both encoders at each layer of LAYERS. A second classifier
    is f_w = f_m + α f_n, the features of two sentences per class. (docs/methods/anprompt.md)

    Loss: CE(ℓ_A) + λ [(1 - cos(f, f*)) + (1 - cos(t, t*))] + γ KL(ℓ_W || ℓ_A), ℓ_A = 100 f tᵀ,
    ℓ_W = 100 f_N f_wᵀ, γ = 1 / (std(ℓ_R) B C), ℓ_R = 100 f f_wᵀ. Prediction: θ ℓ_A + (1 - θ) ℓ_R.

    Learned: tokens P_c [K, D], a Linear per encoder and layer (vision_maps.i, text_maps.i),
    proj_prompt [W_v, D]. Stored but not trained: noise_prompts P_w [K, D], and the numbers of the
    two drawn sentences [2].
    """

    node = "ANPROMPT"
    folder = "MultiModalPromptLearner"
    paper = "Gao et al., Robust Prompt Tuning with Mild Semantic Noise, arXiv 2508.04677, 2025"
    group = "deep"
    defaults = {
        "N_TOKENS": whole(5, 1, 512),
        "LAYERS": listing([6, 7, 8, 9, 10, 11, 12], whole(12, 1), 1),
        "THETA": number(0.7, least=0, most=1),
        "SIM_WEIGHT": number(1.0, least=0),
        "ALPHA": number(0.001, least=0),
        "EPSILON": number(0.01, least=0),
        "MAIN_TEXTS": file(""),
        "NOISE_TEXTS": file(""),
        "PREC": precision("amp"),
    }
    signature = (_TOKENS, _PROJ)
    fixed = (_NOISE, _DRAWN)
    shape_settings = ("N_TOKENS", "LAYERS", "THETA", "ALPHA", "EPSILON")
    layers_key = "LAYERS"

    @classmethod
    def infer(cls, tensors: Tensors, settings: CfgNode, clip: Clip) -> dict[str, object]:
        one_a_layer = _MAPS["v"].format(r"\d+") + ".weight"
        layers = last_layers(settings.LAYERS, tensors, one_a_layer, clip)
        return {"N_TOKENS": len(tensors[_TOKENS]), "LAYERS": layers}

    @property
    def substitute(self) -> str:
        keys = [key for key in ("MAIN_TEXTS", "NOISE_TEXTS") if not self.settings[key]]
        if not keys:
            return ""
        return f"templates stand in for the sentences of {' and '.join(keys)}; no file was given"

    @property
    def test_substitute(self) -> str:
        return self.substitute

    def initial(self) -> dict[str, Tensor]:
        width, dim, settings = self.clip.image.width, self.clip.embed_dim, self.settings
        source = random.Random(self.cfg.SEED)
        drawn = [source.randrange(min(map(len, texts))) for texts in self.sentences()]
        return {
            _TOKENS: EMBEDDING_STD * torch.randn(settings.N_TOKENS, dim),
            _PROJ: torch.randn(width, dim) * width**-0.5,
            **equal_maps(self.clip, dim, len(self.layers), _map_name),
            _NOISE: noise_prompts(self.weak_features(*drawn), settings.N_TOKENS),
            _DRAWN: torch.tensor(drawn),
        }

    def sentences(self) -> tuple[list[list[str]], list[list[str]]]:
        """The main and the noise sentences: two lists with one list of sentences per class."""
        names, settings = self.classes.names, self.settings
        main = [[prompt] for prompt in self.classes.prompts]
        noise = substitute_sentences(names)
        found = []
        for key, texts in (("MAIN_TEXTS", main), ("NOISE_TEXTS", noise)):
            if settings[key]:
                where = f"TRAINER.{self.node}.{key}"
                texts = read_sentences(settings[key], names, where, self.classes.dataset)
            found.append(texts)
        return found[0], found[1]

    def weak_features(self, main: int, noise: int) -> Tensor:
        """f_w [C, D], not normalised, from sentences number `main` and `noise` of each class. A
        number beyond a class's last sentence starts again at its first."""
        f_m, f_n = (
            normalise(self.clip.text_features([t[i % len(t)] for t in texts], cut=True))
            for i, texts in zip((main, noise), self.sentences(), strict=True)
        )
        return f_m + float(self.settings.ALPHA) * f_n

    def prepare(self) -> None:
        super().prepare()
        self._weak: Tensor | None = None

    def weak_class_features(self) -> Tensor:
        """f_w [C, D], normalised, of the sentences that the checkpoint names; computed once."""
        if self._weak is None:
            drawn = self.learned.get_buffer(_DRAWN).tolist()
            self._weak = normalise(self.weak_features(*drawn))
        return self._weak

    def mapped(self, kind: str) -> list[Tensor]:
        tokens = self.parameter(_TOKENS)
        tokens = tokens + self.settings.EPSILON * self.learned.get_buffer(_NOISE)
        return [self.apply_linear(_map_name(kind, i), tokens) for i in range(len(self.layers))]

    def project_mean(self, mean: Tensor) -> Tensor:
        return mean @ self.parameter(_PROJ)

    def classifier(self) -> Callable[[Tensor], Tensor]:
        text, weak = self.class_features(), self.weak_class_features()

        def logits(images: Tensor) -> Tensor:
            image = self.image_features(images)
            return self.mixed(self.similarity(image, text), self.similarity(image, weak))

        return logits

    def mixed(self, aligned: Tensor, robust: Tensor) -> Tensor:
        """The logits of the prediction: θ ℓ_A + (1 - θ) ℓ_R."""
        theta: float = self.settings.THETA
        return theta * aligned + (1 - theta) * robust

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        text, weak_text = self.class_features(), self.weak_class_features()
        state = self.image_state(images)
        image, prototype = self.both_features(state)
        aligned = self.similarity(image, text)
        robust = self.similarity(image, weak_text)
        weak = self.similarity(prototype, weak_text)
        divergence = F.kl_div(
            aligned.log_softmax(1), weak.log_softmax(1), reduction="sum", log_target=True
        )
        drift = float(self.settings.SIM_WEIGHT) * self.drift(state, image, text)
        gamma = 1 / (robust.std() * robust.numel() + _TINY)
        self.count_right(self.mixed(aligned, robust), labels)
        return F.cross_entropy(aligned, labels) + drift + gamma * divergence


def _map_name(kind: str, i: int) -> str:
    return _MAPS[kind].format(i)
