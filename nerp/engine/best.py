"""TEST.FINAL_MODEL best_val: selects the epoch whose model does best on validation images."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.data.benchmark import Benchmark
from nerp.engine.evaluate import compute_logits
from nerp.trainers.base import Trainer

BEST_VAL = "best_val"  # as TEST.FINAL_MODEL has it


@dataclass
class Best:
    """The best epoch so far, counted from 1; the number of validation images that its model
    predicts correctly; its learned tensors, on the CPU."""

    epoch: int
    right: int
    tensors: dict[str, Tensor]


class BestEpoch:
    """Measures a trainer on the validation images after each epoch, and keeps the best.

    Of equally good epochs it keeps the first, as Dassl does. It does not change the training.
    Raises NerpError if there are no validation images, or if the method is trained without labels.
    """

    def __init__(self, trainer: Trainer, bench: Benchmark, cfg: CfgNode):
        asked = f"TEST.FINAL_MODEL {BEST_VAL}"
        if not trainer.reads_labels:
            raise NerpError(f"{asked}: {cfg.TRAINER.NAME} is trained without labels, and this "
                            "choice needs labels; leave it out")
        if not bench.val:
            raise NerpError(f"{asked}: {bench.name} has no validation images; leave it out, or "
                            "split some off (nerp data split)")
        self.best: Best | None = None
        self._trainer, self._bench, self._cfg = trainer, bench, cfg
        self._labels = torch.tensor([item.label for item in bench.val])
        self._features: Tensor | None = None

    def look(self, epoch: int) -> None:
        """Measure the trainer after an epoch (counted from 1), in evaluation mode."""
        # A trainer may cache tensors; here they are made in inference mode, so a copy caches them.
        logits = compute_logits(copy.copy(self._trainer), self._bench.val, self._bench.image_dir,
                                self._cfg, self._kept)
        right = int((logits.argmax(1) == self._labels).sum())
        is_best = self.best is None or right > self.best.right
        say(f"after epoch {epoch}: validation accuracy {self._percent(right):.2f} %"
            f"{', the best so far' if is_best else ''}")
        if is_best:
            tensors = self._trainer.learned.state_dict()
            self.best = Best(epoch, right, {n: t.detach().cpu().clone()
                                            for n, t in tensors.items()})

    def record(self, epochs: int) -> dict[str, object]:
        """The entry of result.json about the choice among `epochs` epochs."""
        assert self.best is not None
        return {"name": BEST_VAL, "epoch": self.best.epoch, "of_epochs": epochs,
                "val_accuracy": self._percent(self.best.right), "val_images": len(self._labels)}

    def state(self) -> dict[str, object] | None:
        """The best so far as plain values and tensors, which `restore` takes."""
        return dict(vars(self.best)) if self.best else None

    def restore(self, content: Mapping[str, Any], last: int) -> None:
        """Continue from a `state` after epoch `last`, which has the trainer's kind of tensors.
        Raises ValueError, or what Python raises for content of another form."""
        found = Best(**content)
        if not (type(found.epoch) is type(found.right) is int and 1 <= found.epoch <= last
                and 0 <= found.right <= len(self._labels)):
            raise ValueError("the best epoch")
        self.best = found

    def _percent(self, right: int) -> float:
        return 100 * right / len(self._labels)

    def _kept(self, compute: Callable[[], Tensor]) -> Tensor:
        """Frozen image features, which are the same for every epoch."""
        if self._features is None:
            self._features = compute()
        return self._features
