"""Tip-Adapter: zero-shot CLIP plus the votes of a cache of training images' features."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.base.log import say
from nerp.base.registry import TRAINERS
from nerp.clip.model import normalise
from nerp.settings.keys import choice, listing, number, whole
from nerp.trainers.base import precision
from nerp.trainers.on_features import DescendsOnFeatures, Images
from nerp.trainers.votes import add_up, class_votes, cosines, sorted_keys, weights
from nerp.trainers.voting import SCALE, Voting, validation_images


def cache_keys(views: Tensor) -> Tensor:
    """Keys [N, D]: the normalised mean over A views. views: [A, N, D], not normalised.

    (Zhang et al. 2022, section 3.1; the views as in the published code.)
    """
    return normalise(views.mean(0))


def logits(
    features: Tensor, text: Tensor, keys: Tensor, labels: Tensor, beta: float | Tensor,
    alpha: float | Tensor,
) -> Tensor:
    """Logits [B, C]: 100 f tᵀ + α times the votes, differentiable in `keys`.

    Args:
        features: f [B, D], normalised. text: t [C, D], normalised. keys: [N, D].
        labels: [N], in 0..C-1, or -1 for a key without a vote.
    """
    votes = class_votes(features, keys, labels, len(text), beta)
    return SCALE * features @ text.t() + alpha * votes


def grid(scale: float, steps: int) -> list[float]:
    """The `steps` values that the search tries: evenly spaced from 0.1 up to, but without,
    `scale`."""
    return [0.1 + i * (scale - 0.1) / steps for i in range(steps)]


def search(
    features: Tensor, truth: Tensor, text: Tensor, keys: Tensor, labels: Tensor,
    betas: Sequence[float], alphas: Sequence[float],
) -> tuple[float, float]:
    """The β and α with the best accuracy on image features [V, D] with labels `truth` [V]. Of equal
    pairs it is the first, ordered by β and then α; 0 and 0 if no pair predicts any image correctly.
    """
    keys, labels = sorted_keys(keys, labels)
    counts = torch.bincount(labels, minlength=len(text))
    close, zero_shot = cosines(features, keys), SCALE * features @ text.t()
    best, most = (0.0, 0.0), 0
    for beta in betas:
        votes = add_up(weights(close, beta), counts)
        for alpha in alphas:
            right = int(((zero_shot + alpha * votes).argmax(1) == truth).sum())
            if right > most:
                best, most = (beta, alpha), right
    return best


@TRAINERS.register("TipAdapter")
class TipAdapter(Voting):
    """Logits: 100 f tᵀ + α Σ_(n of class c) exp(-β (1 - f · k_n)); f and t are frozen CLIP's.

    Built: keys k [N, D] of the training images. A search on validation images chooses β and α.
    There is no gradient step. See docs/methods/tip_adapter.md.
    """

    node = "TIPADAPTER"
    folder = "tip_adapter"
    paper = "Zhang et al., Tip-Adapter: Training-free Adaption of CLIP, ECCV 2022"
    defaults = {
        "AUGMENT": whole(10, 1, 1000),
        "INIT_BETA": number(1.0, least=0),
        "INIT_ALPHA": number(1.0, least=0),
        "SCALE": listing((12.0, 10.0), number(1.0, above=0), 2, 2),  # the search's limits of β, α
        "STEPS": listing((200, 20), whole(1, 1, 10**4), 2, 2),
        "SEARCH": choice("val", "none"),
        "PREC": precision("fp16"),
    }
    signature = ("keys", "labels", "beta", "alpha")
    fixed: tuple[str, ...] = ("keys", "labels", "beta", "alpha")

    def initial(self) -> dict[str, Tensor]:
        return {
            "keys": torch.zeros(0, self.clip.embed_dim),
            "labels": torch.zeros(0, dtype=torch.long),
            "beta": torch.tensor(self.settings.INIT_BETA),
            "alpha": torch.tensor(self.settings.INIT_ALPHA),
        }

    @property
    def passes(self) -> int:
        return int(self.settings.AUGMENT)

    def build(self, images: Images) -> None:
        views = torch.stack([images.drawn(number) for number in range(self.settings.AUGMENT)])
        start = self.initial()
        self.learn({**start, "keys": cache_keys(views), "labels": images.labels("train")})

    def finish(self, images: Images) -> None:
        held = validation_images(images, self.settings.SEARCH)
        if held is None:
            return
        features, truth = normalise(held[0]), held[1]
        betas, alphas = map(grid, self.settings.SCALE, self.settings.STEPS)
        with torch.no_grad():
            beta, alpha = search(features, truth, self.class_features(), self.tensor("keys"),
                                 self.tensor("labels"), betas, alphas)
        say(f"searched on {len(truth)} validation images: β = {beta:.3f}, α = {alpha:.3f}")
        self.learn({**self.learned.state_dict(), "beta": torch.tensor(beta),
                    "alpha": torch.tensor(alpha)})

    def of_features(self) -> Callable[[Tensor], Tensor]:
        text, (keys, labels) = self.class_features(), self.voting_keys()
        beta, alpha = self.tensor("beta"), self.tensor("alpha")
        return lambda features: logits(features, text, keys, labels, beta, alpha)


@TRAINERS.register("TipAdapterF")
class TipAdapterF(DescendsOnFeatures, TipAdapter):
    """Tip-Adapter with trained keys. The loss is the cross entropy of the logits with INIT_BETA and
    INIT_ALPHA. A new search after the last epoch chooses β and α.

    Learned: keys [N, D], which are not normalised again. See docs/methods/tip_adapter.md.
    """

    fixed = ("labels", "beta", "alpha")

    @property
    def passes(self) -> int:
        return self.epochs + int(self.settings.AUGMENT)

    @property
    def rate_steps(self) -> int:
        size = int(self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE)
        return self.epochs * -(-len(self.tensor("labels")) // size)

    def batches(self, images: Images, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        features = normalise(images.drawn(self.settings.AUGMENT + epoch))
        labels = self.tensor("labels")
        for batch in self.shuffled(len(labels), epoch, keep_last=True):
            yield features[batch], labels[batch]

    def feature_loss(self, *batch: Tensor) -> Tensor:
        features, labels = batch
        found = logits(features, self.class_features(), self.tensor("keys"),
                       self.tensor("labels"), self.settings.INIT_BETA, self.settings.INIT_ALPHA)
        return F.cross_entropy(found, labels)
