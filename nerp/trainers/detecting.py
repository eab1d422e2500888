"""DeCoOp's detectors: the names that each knows, its scores of images, and its training loss."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.clip.device import send
from nerp.clip.model import normalise
from nerp.clip.tokenizer import Prompts, build_prompts
from nerp.trainers.base import Trainer

DETECTOR, THRESHOLD = "ood_prompter.{}.ctx", "threshold"
UNSETTLED = -1.0  # the threshold's value before it is set: no score is below 0
_BINS = 256
_SURE = 0.6  # the largest probability in the distribution that defines the automatic margin


def parts(classes: int, count: int) -> list[list[int]]:
    """For each of `count` detectors, the labels of the classes whose names it knows. These are all
    classes except every count-th one. A detector that would know fewer names than the others knows
    the first of its excluded classes too."""
    least = -(-classes * (count - 1) // count)
    own = [[j for j in range(classes) if j % count != i] for i in range(count)]
    return [known if len(known) >= least else [*known, i] for i, known in enumerate(own)]


def margin_of(setting: float | str, names: int) -> float:
    """The margin between entropies, in nats. For "auto" it is ln n minus the entropy of a
    distribution over n names: one has probability 0.6, the others equal ones."""
    if not isinstance(setting, str):
        return float(setting)
    rest = (1 - _SURE) / (names - 1)
    return math.log(names) + _SURE * math.log(_SURE) + (1 - _SURE) * math.log(rest)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values [B] whose mask [B] is true; 0 if none is."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def otsu(scores: npt.NDArray[np.float32]) -> float:
    """Otsu's threshold of scores [N], by a histogram of 256 bins. Each split of the bins gives two
    groups; the best split has the largest product of both counts and the squared distance of the
    means. The threshold is the centre of the last bin below the first best split. If all scores are
    equal, it is that score. (Otsu, 1979.)"""
    if scores.min() == scores.max():
        return float(scores[0])
    counts, edges = np.histogram(scores, _BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    sums = counts * centres
    below, above = counts.cumsum()[:-1], counts[::-1].cumsum()[::-1][1:]
    low, high = sums.cumsum()[:-1] / below, sums[::-1].cumsum()[::-1][1:] / above
    return float(centres[:-1][(below * above * (low - high) ** 2).argmax()])


def cosine_rate(rate: float, step: int, period: int) -> float:
    """The learning rate of a step: `rate` before step 0. From step 0 on it follows a cosine, which
    reaches 0 at step `period` and then rises again."""
    return rate if step < 0 else 0.5 * rate * (1 + math.cos(math.pi * step / period))


class Known(NamedTuple):
    """The training targets of a detector: prompts of its own names, and places [C]. A place is the
    index of a trained class among these names, or -1 for a class that the detector must reject."""

    prompts: Prompts
    places: Tensor


class Detector(NamedTuple):
    """A detector's class features [n + m, D]; those of its own n names come first."""

    features: Tensor
    own: int

class Detecting(Trainer):
    """A method with detectors; its settings have K, N_CTX and OOD_MARGIN.

    Attributes: trained: the C trained classes, if the checkpoint names them.
    """

    fixed = (THRESHOLD,)
    trained: Sequence[str] = ()
    _learning: list[Known] | None = None  # computed once per training

    def recall(self, trained: Sequence[str], plain: Mapping[str, object]) -> None:
        if len(trained) < self.settings.K:
            raise NerpError(f"it names {len(trained)} classes that it was trained on (classnames); "
                            f"its {self.settings.K} detectors need them all")
        super().recall(trained, plain)
        self.trained = tuple(trained)

    @property
    def trained_names(self) -> Sequence[str]:
        """The C trained classes."""
        return self.trained or self.classes.names

    @property
    def threshold(self) -> Tensor:
        return self.learned.get_buffer(THRESHOLD)

    def prompts_of(self, names: Sequence[str]) -> Prompts:
        """Prompts of the names, with slots for the context in front."""
        prefix = " ".join(["X"] * self.settings.N_CTX)
        texts = [f"{prefix} {name}." for name in names]
        prompts = build_prompts(texts, n_ctx=self.settings.N_CTX, tokenizer=self.clip.tokenizer)
        return prompts.to(self.clip.device)

    def contexts(self, kind: str) -> Tensor:
        """The contexts [K, N_CTX, W_t] of the K detectors or classifiers. kind: the pattern of
        their tensors' names."""
        return torch.stack([self.parameter(kind.format(i)) for i in range(self.settings.K)])

    def encode(self, prompts: Prompts, contexts: Tensor) -> Tensor:
        """Normalised features [G, C, D] of C prompts with each of G contexts."""
        return normalise(self.clip.text.features(self.clip.text_state(prompts, contexts)))

    def detectors(self) -> list[Detector]:
        """The K detectors. Each has its own names, then the tested names that are not among
        these."""
        trained, asked = self.trained_names, self.classes.names
        names = list(dict.fromkeys([*trained, *asked]))
        place = {name: i for i, name in enumerate(names)}
        features = self.encode(self.prompts_of(names), self.contexts(DETECTOR))
        found = []
        for i, own in enumerate(parts(len(trained), self.settings.K)):
            known = [trained[j] for j in own]
            among = {*known}
            rows = [place[name] for name in (*known, *(n for n in asked if n not in among))]
            chosen = features[i][send(torch.tensor(rows), features.device)]
            found.append(Detector(chosen, len(own)))
        return found

    def scores(self, f: Tensor, detectors: Sequence[Detector]) -> Tensor:
        """Scores r [B, K] of image features f [B, D]: the largest probability that each detector
        gives one of its own names."""
        of = (self.similarity(f, d.features).softmax(1)[:, : d.own].amax(1) for d in detectors)
        return torch.stack([*of], 1)

    def trained_score(self) -> Callable[[Tensor], Tensor]:
        detectors = self.detectors()
        return lambda f: self.scores(f, detectors).amax(1)

    def accepting(self, f: Tensor, detectors: Sequence[Detector]) -> Tensor:
        """Mask [B, K]: which detectors accept each image."""
        return self.scores(f, detectors) >= self.threshold

    def learning(self) -> list[Known]:
        """The training targets of each detector."""
        names, count = self.trained_names, self.settings.K
        found = []
        for i, own in enumerate(parts(len(names), count)):
            places = [own.index(j) if j % count != i else -1 for j in range(len(names))]
            prompts = self.prompts_of([names[j] for j in own])
            found.append(Known(prompts, send(torch.tensor(places), self.clip.device)))
        return found

    def detector_terms(self, f: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """CE_i [K] and M_i [K] of a batch. A term is 0 if the batch has no images for it."""
        if self._learning is None:
            self._learning = self.learning()
        entropies, margins = [], []
        for i, known in enumerate(self._learning):
            text = self.encode(known.prompts, self.parameter(DETECTOR.format(i)))[0]
            place = known.places[labels]
            inside = place >= 0
            log = self.similarity(f, text).log_softmax(1)
            entropy = -(log.exp() * log).sum(1)
            own_entropy = F.nll_loss(log, place.clamp(min=0), reduction="none")
            entropies.append(masked_mean(own_entropy, inside))
            margin = margin_of(self.settings.OOD_MARGIN, len(text))
            gap = masked_mean(entropy, inside) - masked_mean(entropy, ~inside)
            margins.append(F.relu(margin + gap) * (inside.any() & (~inside).any()))
        return torch.stack(entropies), torch.stack(margins)

    @torch.no_grad()
    def survey(self, outputs: Tensor) -> None:
        """Set the threshold from the scores of all training images."""
        scores = self.scores(self.from_frozen(outputs), self.detectors()).float().cpu().numpy()
        self.threshold.fill_(min(map(otsu, scores.T)))

    def saved(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The learned tensors, without the threshold as long as it is not set."""
        settled = float(tensors[THRESHOLD]) != UNSETTLED
        return tensors if settled else {n: t for n, t in tensors.items() if n != THRESHOLD}
