"""DeCoOp: detectors accept images of trained classes, and each has a classifier for these."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.distributed import world_size
from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.device import in_float32
from nerp.clip.model import Clip, normalise
from nerp.clip.templates import ENSEMBLE_7
from nerp.clip.tokenizer import CONTEXT_LENGTH, build_prompts
from nerp.settings.keys import Key, choice, number, whole
from nerp.trainers.base import precision
from nerp.trainers.detecting import (
    DETECTOR,
    THRESHOLD,
    UNSETTLED,
    Detecting,
    Detector,
    cosine_rate,
    masked_mean,
)
from nerp.trainers.tensors import random_tokens

_CLASSIFIER = "coop_prompter.{}.ctx"


def _margin(value: object) -> object:
    return value if value == "auto" else number(0.4, least=0).accept(value)


@TRAINERS.register("DeCoOp")
class DeCoOp(Detecting):
    """K detectors, each a context that knows all trained classes except every K-th, and K
    classifiers, each a context for all classes. A detector accepts an image if one of its own names
    has probability >= threshold. The logits are (1 / K) times the sum over the classifiers whose
    detector accepts the image, and frozen CLIP's if no detector does.

    Training: DETECTOR_EPOCHS with the detectors' loss (1 / K) sum_i (CE_i + M_i); then Otsu's
    threshold of the scores of all training images; then the classifiers' loss, (1 / K) sum_i of
    cross entropy on accepted images and KL to frozen CLIP on others. (docs/methods/decoop.md)

    Learned: coop_prompter.i.ctx and ood_prompter.i.ctx [N_CTX, W_t]; the number threshold.
    """

    node = "DECOOP"
    folder = "decoop"
    paper = ("Zhou et al., DeCoOp: Robust Prompt Tuning with Out-of-Distribution Detection, ICML "
             "2024")
    group = "context"
    defaults = {
        "N_CTX": whole(16, 1, CONTEXT_LENGTH),
        "K": whole(3, 2, 1000),
        "OOD_MARGIN": Key(0.4, "auto, or a number of at least 0", _margin),
        "DETECTOR_EPOCHS": whole(50, 1),
        "TEMPLATES": choice("ensemble_7", "dataset"),
        "PREC": precision("fp16"),
    }
    signature = (r"ood_prompter\.0\.ctx", r"coop_prompter\.0\.ctx")
    shape_settings = ("N_CTX", "K")
    text_by_image = True
    independent = False  # a detector's decision depends on all tested names
    keeps_last = True
    loss_by_features = True

    detecting = True  # whether the current phase is the first one

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        count = sum(DETECTOR.format(i) in tensors for i in range(len(tensors)))
        return {"K": count, "N_CTX": len(tensors[DETECTOR.format(0)])}

    def initial(self) -> dict[str, Tensor]:
        tensors = {kind.format(i): random_tokens(self.settings.N_CTX, self.clip.text.width)
                   for kind in (_CLASSIFIER, DETECTOR) for i in range(self.settings.K)}
        return {**tensors, THRESHOLD: torch.tensor(UNSETTLED)}

    def prepare(self) -> None:
        self.prompts = self.prompts_of(self.classes.names)
        self._learning = None
        self._known: tuple[list[Detector], Tensor] | None = None

    def prepare_training(self) -> None:
        count, first = self.settings.K, self.settings.DETECTOR_EPOCHS
        if count > len(self.classes.names):
            raise NerpError(f"TRAINER.{self.node}.K is {count}; it takes at most the number of "
                            f"trained classes, {len(self.classes.names)}")
        if first >= self.cfg.OPTIM.MAX_EPOCH:
            raise NerpError(f"TRAINER.{self.node}.DETECTOR_EPOCHS is {first}; it takes less than "
                            f"OPTIM.MAX_EPOCH {self.cfg.OPTIM.MAX_EPOCH}, which counts both phases")

    # Class features.

    def frozen_class_features(self, images: Tensor | None = None) -> Tensor:
        """The mean [C, D] of the templates' normalised features; it is not normalised again."""
        if self._frozen_class_features is None:
            templates = ENSEMBLE_7 if self.settings.TEMPLATES == "ensemble_7" else \
                [self.classes.template]
            columns = [[t.format(name) for name in self.classes.names] for t in templates]
            features = torch.stack([normalise(self.clip.text_features(own)) for own in columns])
            self._frozen_class_features = features.mean(0)
        return self._frozen_class_features

    def classifier_features(self) -> Tensor:
        """The class features t_i [K, C, D] of the K classifiers."""
        return self.encode(self.prompts, self.contexts(_CLASSIFIER))

    # Prediction.

    def feature_classifier(self) -> Callable[[Tensor], Tensor]:
        detectors, text = self.detectors(), self.classifier_features()
        frozen = self.frozen_class_features()

        def logits(f: Tensor) -> Tensor:
            return self.chosen(self.accepting(f, detectors), self.classifier_logits(f, text),
                               self.similarity(f, frozen))

        return logits

    def classifier_logits(self, f: Tensor, text: Tensor) -> Tensor:
        """The classifiers' logits [B, K, C], from image features f [B, D] and t_i [K, C, D]."""
        return torch.stack([self.similarity(f, own) for own in text], 1)

    def chosen(self, on: Tensor, of_classifiers: Tensor, otherwise: Tensor) -> Tensor:
        """(1 / K) sum_i on_i x_i [B, ...] of on [B, K] and x [B or 1, K, ...]; where all are off,
        `otherwise` [B or 1, ...]."""
        shape = (*on.shape, *[1] * (of_classifiers.dim() - 2))
        mean = (on.view(shape) * of_classifiers).sum(1) / self.settings.K
        return torch.where(on.any(1).view(shape[0], *shape[2:]), mean, otherwise)

    # For NeRP: the reference image decides which classifiers are used.

    def class_features(self, images: Tensor | None = None) -> Tensor:
        assert images is not None
        on = self.accepting(self.image_features(images), self.detectors())
        return self.chosen(on, self.classifier_features()[None], self.frozen_class_features()[None])

    def tuned_neutral(self) -> Tensor:
        """[K, D]: each classifier's context replaces the neutral prompt's first tokens."""
        prompts = build_prompts([self.classes.neutral], n_ctx=self.settings.N_CTX,
                                tokenizer=self.clip.tokenizer)
        return self.encode(prompts, self.contexts(_CLASSIFIER))[:, 0]

    @torch.no_grad()
    def neutral_features(self, image: Tensor | None) -> tuple[Tensor, Tensor]:
        assert image is not None
        frozen = normalise(self.clip.text_features([self.classes.neutral]))[0]
        on = self.accepting(self.image_features(image), self.detectors())
        return frozen, self.chosen(on, self.tuned_neutral()[None], frozen[None])[0]

    # Training.

    def start_epoch(self, epoch: int) -> None:
        self.detecting = epoch < self.settings.DETECTOR_EPOCHS
        self._known = None

    def step_rate(self, step: int, epoch_steps: int) -> float:
        """The learning rate: constant in the first phase. In the second phase it falls and rises
        with every step; its period in steps is twice the phase's number of epochs."""
        optim, detector = self.cfg.OPTIM, self.settings.DETECTOR_EPOCHS
        return cosine_rate(optim.LR, step - detector * epoch_steps, optim.MAX_EPOCH - detector)

    def surveys(self, epoch: int) -> bool:
        return epoch + 1 == int(self.settings.DETECTOR_EPOCHS)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        f = self.image_features(images)
        self.right = None
        if self.detecting:
            entropy, margin = self.detector_terms(f, labels)
            loss, others = (entropy + margin).mean(), _CLASSIFIER
        else:
            loss, others = self.classifier_loss(f, labels), DETECTOR
        # Several processes need a gradient of every learned tensor; the unused get gradient 0.
        return loss + 0 * self.contexts(others).sum() if world_size() > 1 else loss

    def classifier_loss(self, f: Tensor, labels: Tensor) -> Tensor:
        """The second phase's loss, a scalar. Scores and frozen logits have no gradient."""
        if self._known is None:
            with torch.no_grad():
                self._known = self.detectors(), self.frozen_class_features()
        detectors, frozen = self._known
        on, target = self.accepting(f, detectors), self.similarity(f, frozen)
        logits = self.classifier_logits(f, self.classifier_features())
        self.count_right(self.chosen(on, logits, target), labels)
        with in_float32(f.device):
            log, target_log = logits.log_softmax(2), target.log_softmax(1)
            entropy = -log.gather(2, labels[:, None, None].expand(-1, log.shape[1], 1))[..., 0]
            own_target = target_log[:, None].expand_as(log)
            divergence = F.kl_div(log, own_target, reduction="none", log_target=True).sum(2)
        terms = [masked_mean(entropy[:, i], on[:, i]) + masked_mean(divergence[:, i], ~on[:, i])
                 for i in range(on.shape[1])]
        return torch.stack(terms).mean()
