"""Training on frozen features: of tensors that are built, and of those that are then trained."""

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import torch
from yacs.config import CfgNode

from nerp.base.distributed import agree, is_main, main_first
from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.progress import progress
from nerp.data.benchmark import Benchmark
from nerp.engine.best import BEST_VAL
from nerp.engine.checkpoint import check_finite, checkpoint_file, save_checkpoint
from nerp.engine.history import History, Row
from nerp.engine.optim import build_optimizer, take_step
from nerp.engine.schedule import rate_by_step
from nerp.engine.training_features import TrainingFeatures
from nerp.trainers.on_features import DescendsOnFeatures, OnFeatures


class FeatureTraining:
    """`TrainingRun` of a method on frozen features.

    Encoding images and texts takes long, so their features are kept. An interrupted run starts
    again with the features it finds; the rest is algebra on [N, D], which takes seconds or minutes.
    With several processes, each does all of this algebra, and they share the encoding.
    """

    def __init__(
        self, trainer: OnFeatures, bench: Benchmark, cfg: CfgNode, directory: Path,
        identity: Mapping[str, object],
    ):
        if cfg.TEST.FINAL_MODEL == BEST_VAL:
            raise NerpError(f"TEST.FINAL_MODEL {BEST_VAL}: {cfg.TRAINER.NAME} is built from frozen "
                            "features, not by epochs to choose between; leave it out")
        self.trainer = trainer
        self.cfg = cfg
        self.directory = directory
        trainer.prepare_training()
        self.features = TrainingFeatures(bench, cfg, trainer.clip, directory, trainer.passes)
        self.history = History(directory, cfg)

    @property
    def record(self) -> dict[str, object]:
        """The entry of result.json about the checkpoint: its epoch."""
        return {"epoch": self.trainer.epochs}

    def resume(self) -> None:
        """Nothing is to be continued except the features, which `run` finds."""

    def run(self) -> Path:
        """Build and train the tensors, and save the checkpoint; the trainer keeps the result.

        Returns the checkpoint's file. Raises NerpError for a loss or tensor that is not finite.
        """
        trainer = self.trainer
        with torch.autocast(trainer.clip.device.type, enabled=False):
            trainer.build(self.features)
            if isinstance(trainer, DescendsOnFeatures):
                self._descend(trainer)
            trainer.finish(self.features)
        tensors = trainer.learned.state_dict()
        for name, tensor in tensors.items():
            check_finite(name, tensor, "training stopped; lower OPTIM.LR")
        digest = ""
        with main_first():
            if is_main():
                _, digest = save_checkpoint(
                    self.directory, trainer, tensors, trainer.epochs, self.cfg)
        self.digest = agree(digest)
        self.features.done()
        path = checkpoint_file(self.directory, trainer.folder, trainer.epochs)
        say(f"Checkpoint saved to {path}", file_only=True)
        return path

    def _descend(self, trainer: DescendsOnFeatures) -> None:
        optim = self.cfg.OPTIM
        optimizer = build_optimizer(trainer.parameters(), optim)
        unscaled = torch.amp.GradScaler(trainer.clip.device.type, enabled=False)
        step, start = 0, time.monotonic()
        if is_main():
            self.history.begin(0)
        with closing(self.history):
            for epoch in progress(range(trainer.epochs), "train", trainer.epochs, "epoch"):
                losses = []
                for batch in trainer.batches(self.features, epoch):
                    rate = rate_by_step(optim, step, trainer.rate_steps)
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    loss = trainer.feature_loss(*batch)
                    take_step(optimizer, unscaled, loss, clip_norm=0.0)
                    losses.append(loss.detach())
                    step += 1
                mean = float(torch.stack(losses).mean())
                check_finite("the loss", torch.tensor(mean),
                             f"epoch {epoch + 1}: training stopped; lower OPTIM.LR")
                say(f"epoch {epoch + 1} of {trainer.epochs}: loss {mean:.4f}, rate {rate:.3g}")
                if is_main():
                    self.history.add(Row(epoch + 1, step, mean, None, rate,
                                         time.monotonic() - start))
                    self.history.save()
