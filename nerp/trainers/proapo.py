"""ProAPO and ATO: an evolutionary search on few-shot images finds prompts in words."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.progress import progress
from nerp.base.registry import TRAINERS
from nerp.clip.model import normalise
from nerp.clip.templates import published_templates
from nerp.data.sentences import read_sentences
from nerp.settings.keys import choice, file, flag, listing, number, text, whole
from nerp.trainers.base import precision
from nerp.trainers.evolution.clusters import k_means
from nerp.trainers.evolution.descriptions import Search, Trace
from nerp.trainers.evolution.draws import Draws
from nerp.trainers.evolution.score import measure
from nerp.trainers.evolution.settings import Settings
from nerp.trainers.evolution.templates import Trace as TemplateTrace
from nerp.trainers.evolution.templates import evolve_templates, library
from nerp.trainers.evolution.texts import Encode, Encoded, Pair
from nerp.trainers.evolution.written import Written, read_written
from nerp.trainers.linear import LinearClassifier
from nerp.trainers.on_features import Images, OnFeatures

__all__ = ["library", "measure", "search_descriptions", "search_templates"]


def search_templates(
    names: Sequence[str], library: Sequence[str], encode: Encode, scale: float, features: Tensor,
    labels: Tensor, settings: object, seed: int,
) -> tuple[list[str], TemplateTrace]:
    """The templates found for all classes, and (templates, fitness) of each candidate tried.

    Args:
        names: C classes. library: templates, the baseline first (`library`).
        encode: n texts -> their normalised features [n, D]. scale: s = exp(logit_scale).
        features: frozen features of training images [N, D], normalised. labels: [N].
        settings: any object with keys of TRAINER.PROAPO; missing keys have their defaults.
        seed: of both streams of random numbers.
    """
    return evolve_templates(names, library, encode, scale, features, labels,
                            Settings.read(settings), Draws(seed))


def search_descriptions(
    names: Sequence[str], descriptions: Mapping[str, Sequence[str]],
    synonyms: Mapping[str, Sequence[str]], templates: Sequence[str], encode: Encode, scale: float,
    features: Tensor, labels: Tensor, clusters: Callable[[Tensor], Tensor], settings: object,
    seed: int,
) -> tuple[dict[str, list[Pair]], Trace]:
    """For each class, the (label, description or None) pairs found for it; and the candidates as in
    `search_templates`.

    Args:
        descriptions, synonyms: by class name; a class without synonyms uses its name alone.
        templates: prompts around a label. clusters: class features [C, D] -> cluster numbers [C].
        The other arguments are those of `search_templates`.
    """
    search = Search(names, descriptions, synonyms, Encoded(templates, encode), scale, features,
                    labels, Settings.read(settings), Draws(seed))
    return search.run(clusters), search.trace


@TRAINERS.register("ProAPO")
class ProAPO(OnFeatures):
    """Logits: s f tᵀ. Each class's t is the mean over written prompts. A search on few-shot images
    finds them: templates for all classes, then labels and descriptions for some classes.

    Built: text_features [C, D], which checks the stored texts. See docs/methods/proapo.md.
    """

    node = "PROAPO"
    folder = "proapo"
    paper = "Qu et al., Progressively Automatic Prompt Optimization, CVPR 2025"
    defaults = {
        "STAGE": choice("both", "templates"),
        "EPOCHS": whole(8, 1, 1000),
        "TOP": whole(4, 1, 1000),
        "ADD": whole(8, 0, 10**4),
        "REMOVE": whole(8, 0, 10**4),
        "REPLACE": whole(8, 0, 10**4),
        "MUTATE": whole(8, 0, 10**4),  # half as many for descriptions
        "CROSS": whole(16, 0, 10**4),
        "MAX": whole(0, 0, 10**6),
        "SAMPLE": choice("mean", "weighted"),
        "CROSSOVER": choice("slow", "quick"),
        "OUTER": whole(3, 0, 1000),
        "INNER": whole(4, 0, 1000),
        "GROUPS": whole(4, 0, 10**4),
        "IMPORTANCE": flag(True),
        "SAMPLE_DESCRIPTIONS": flag(False),
        "WEIGHTS": listing([0.1, 0.1, 0.05, 10.0], number(0.1), 4, 4),
        "WEIGHTS2": listing([0.1, 0.1, 0.05, 10.0], number(0.1), 4, 4),
        "KINDS": listing([], text("")),
        "TEXTS": file(""),  # descriptions, a sentence file or a folder of them
        "SYNONYMS": file(""),  # such a file or folder, with names instead of sentences
        "PREC": precision("fp16"),
    }
    signature = ("text_features",)
    fixed = ("text_features",)
    by_data = ("text_features",)
    plain = ("templates", "specific")

    def initial(self) -> dict[str, Tensor]:
        return {"text_features": torch.zeros(len(self.classes.names), self.clip.embed_dim)}

    @property
    def stage(self) -> str:
        return str(self.settings.STAGE)

    @property
    def written(self) -> Written:
        """The prompts that were found; before the search, the dataset's template."""
        return self._written or Written([self.classes.template], {})

    _written: Written | None = None
    _text: Tensor | None = None

    def prepare_training(self) -> None:
        """Read descriptions and synonyms."""
        names = self.classes.names
        self.given = {
            key: dict(zip(names, read_sentences(path, names, f"TRAINER.PROAPO.{key}",
                                                self.classes.dataset), strict=True))
            for key in ("TEXTS", "SYNONYMS") if (path := self.settings[key])
        }
        if self.stage == "both" and not self.given:
            raise NerpError("TRAINER.PROAPO.TEXTS and .SYNONYMS: the second stage needs one of "
                            "them; TRAINER.PROAPO.STAGE templates (or ATO) does without")

    def encode(self, texts: list[str]) -> Tensor:
        """Normalised features [n, D] of n texts."""
        size = self.cfg.DATALOADER.TEST.BATCH_SIZE
        return torch.cat([normalise(self.clip.text_features(texts[i : i + size], cut=True))
                          for i in range(0, len(texts), size)])

    @torch.no_grad()
    def build(self, images: Images) -> None:
        names, settings = self.classes.names, Settings.read(self.settings)
        features, labels = normalise(images.plain("train")), images.labels("train")
        draws = Draws(self.cfg.SEED)
        stock = library(published_templates(), self.settings.KINDS)
        shown = iter(progress(iter(stock), "templates", len(stock), "template"))

        def encode(texts: list[str]) -> Tensor:
            next(shown, None)
            return images.texts(texts, self.encode)

        templates, trace = evolve_templates(names, stock, encode, self.clip.scale,
                                            features, labels, settings, draws)
        say(f"{len(trace)} compositions of {len(stock)} templates tried: {'; '.join(templates)}")
        specific: dict[str, list[Pair]] = {}
        if self.stage == "both":
            search = Search(names, self.given.get("TEXTS", {}), self.given.get("SYNONYMS", {}),
                            Encoded(templates, encode), self.clip.scale, features, labels,
                            settings, draws)
            specific = search.run(lambda t: k_means(t, self.cfg.SEED))
            say(f"{len(search.trace)} sets of specific prompts tried")
        self._written = Written(templates, specific)
        self._prepare()
        self.learn({"text_features": self.class_features()})

    def class_features(self, images: Tensor | None = None) -> Tensor:
        """t [C, D]. A class without its own prompts uses its name in the templates."""
        if self._text is None:
            self._text = torch.stack([normalise(self.encode(self.written.texts(name)).mean(0))
                                      for name in self.classes.names])
        return self._text

    def prepare(self) -> None:
        self._text = None

    def tuned_neutral(self) -> Tensor:
        return normalise(self.clip.text_features([self.classes.neutral]))[0]

    def of_features(self) -> Callable[[Tensor], Tensor]:
        return self.linear_classifier().logits

    def linear_classifier(self) -> LinearClassifier:
        return LinearClassifier.cosine(self.class_features(), self.scale)

    def plain_values(self) -> dict[str, object]:
        return self.written.plain()

    def recall(self, trained: Sequence[str], plain: Mapping[str, object]) -> None:
        self._written = read_written(plain)
        super().recall(trained, plain)


@TRAINERS.register("ATO")
class ATO(ProAPO):
    """ProAPO's first stage alone: templates that are valid for any class names."""

    @property
    def stage(self) -> str:
        return "templates"
