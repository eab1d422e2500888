"""The training loop."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm
from yacs.config import CfgNode

from nerp.base.distributed import agree, is_main, main_first, mean_over_processes, world_size
from nerp.base.errors import NerpError, OtherRunError
from nerp.base.log import say
from nerp.base.printable import duration
from nerp.data.benchmark import Benchmark
from nerp.engine.best import BEST_VAL, BestEpoch
from nerp.engine.checkpoint import (
    BEST_FILE,
    check_finite,
    checkpoint_file,
    save_checkpoint,
    save_tensors,
)
from nerp.engine.epochs import epochs_of
from nerp.engine.evaluate import FEATURE_BATCH, encode_images
from nerp.engine.history import History, Row
from nerp.engine.identity import changes
from nerp.engine.optim import build_optimizer, checked_steps, take_step
from nerp.engine.schedule import Stretch, make_schedule
from nerp.engine.training_features import TrainingFeatures
from nerp.files.opening import reading
from nerp.files.tensors import load_inert
from nerp.trainers.base import Trainer

STATE_FILE = "training_state.pt"


@dataclass
class _Progress:
    """The state of a resumed run besides the learned tensors: how many stretches of the schedule
    are done, and the weighted mean of the epochs' tensors if the method has one."""

    stretches: int = 0
    mean: dict[str, Tensor] | None = None


@dataclass
class _Clock:
    """Estimates the seconds left of `total` steps, after `before` seconds of an earlier attempt."""

    total: int
    before: float
    done: int = 0
    start: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def left(self) -> float:
        return (time.monotonic() - self.start) / self.done * (self.total - self.done)


class _Step(nn.Module):
    """A trainer's loss as the forward pass of a module, as parallel training needs it."""

    def __init__(self, trainer: Trainer):
        super().__init__()
        self.learned = trainer.learned
        self._trainer = trainer

    def forward(self, images: Tensor, labels: Tensor, *views: Tensor) -> Tensor:
        return self._trainer.loss(images, labels, *views)


def _means(steps: list[list[float]]) -> tuple[float, float | None]:
    """Mean loss and accuracy of steps; accuracy None: the method does not report it."""
    losses, percents = zip(*steps, strict=True)
    accuracy = fmean(percents)
    return fmean(losses), None if math.isnan(accuracy) else accuracy


class TrainingRun:
    """Trains one trainer on one selection of images. It can be resumed after every stretch of its
    schedule: an epoch, or a part of an epoch if the method counts in steps.

    Args:
        identity: must be the same for a resumed run; it is kept with the state.
    """

    def __init__(
        self, trainer: Trainer, bench: Benchmark, cfg: CfgNode, directory: Path,
        identity: Mapping[str, object],
    ):
        self.trainer = trainer
        self.bench = bench
        self.cfg = cfg
        self.directory = directory
        self.identity = dict(identity)
        self.device = trainer.clip.device
        if trainer.views > cfg.DATALOADER.K_TRANSFORMS:
            raise NerpError(f"DATALOADER.K_TRANSFORMS is {cfg.DATALOADER.K_TRANSFORMS}; "
                            f"{cfg.TRAINER.NAME} learns from {trainer.views} views of an image")
        trainer.prepare_training()
        self.shown = epochs_of(trainer, bench, cfg, directory)
        self.schedule = make_schedule(cfg.OPTIM, len(self.shown.batches), trainer.steps)
        self.stretches = list(self.schedule.stretches())
        self.optimizer = build_optimizer(trainer.parameter_groups(), cfg.OPTIM)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=trainer.clip.precision.scaled
        )
        self.weights = trainer.epoch_weights(self.schedule.epochs)
        self.step: nn.Module = _Step(trainer)
        if world_size() > 1:
            self.step = DistributedDataParallel(self.step)
        self.history = History(directory, cfg)
        self.done = _Progress()
        by_val = cfg.TEST.FINAL_MODEL == BEST_VAL
        self.best = BestEpoch(trainer, bench, cfg) if by_val else None
        self.digest = ""  # of the checkpoint, once it is written

    @property
    def record(self) -> dict[str, object]:
        """The entry of result.json about the tested checkpoint: its epoch, and how it was chosen if
        it need not be the last one."""
        epochs = self.schedule.epochs
        if self.best is None:
            return {"epoch": epochs}
        chosen = self.best.record(epochs)
        return {"epoch": chosen["epoch"], "final_model": chosen}

    @property
    def features(self) -> TrainingFeatures | None:
        """The frozen features that it learns from; None: it learns from images."""
        return self.shown.features

    def run(self) -> Path:
        """Train to the last epoch, from the point that `resume` has reached; save the checkpoint,
        whose tensors the trainer then has. With TEST.FINAL_MODEL best_val the best epoch's
        checkpoint is saved beside it, and the trainer has that one's tensors.

        Returns the checkpoint's file. Raises NerpError for a loss that is not finite; the last
        good checkpoint and state then stay as they were.
        """
        epochs = self.schedule.epochs
        todo = self.stretches[self.done.stretches :]
        if is_main():
            self.history.begin(self._steps_done())
        left = self.schedule.steps - self._steps_done()
        hidden = None if is_main() else True  # None: shown on a terminal
        self.step.train()
        with (
            tqdm(total=left, desc="train", unit="step", disable=hidden, leave=False) as bar,
            closing(self.history),
        ):
            clock = _Clock(left, self.history.seconds)
            for stretch in todo:
                self._train(stretch, bar, clock)
                self._finish(stretch)
        self.step.eval()
        final = self.done.mean or self.trainer.learned.state_dict()
        final |= dict(self.trainer.learned.named_buffers())  # buffers are not averaged
        self.trainer.learned.load_state_dict(final)
        if self.best:
            self.best.look(epochs)  # the last checkpoint's tensors, which may be a mean over epochs
        with main_first():
            if is_main():
                digest = self._save(final)
        self.digest = agree(digest if is_main() else "")
        if self.best and self.best.best:
            self.trainer.learned.load_state_dict(self.best.best.tensors)
        path = checkpoint_file(self.directory, self.trainer.folder, None if self.best else epochs)
        say(f"Checkpoint saved to {path}", file_only=True)
        return path

    def _save(self, final: Mapping[str, Tensor]) -> str:
        """Save the last checkpoint and, if asked for, the best epoch's; returns the digest of the
        one to test."""
        save = partial(save_checkpoint, self.directory, self.trainer, cfg=self.cfg)
        path, digest = save(final, self.schedule.epochs)
        if self.best and (best := self.best.best):
            return save(best.tensors, best.epoch, best=True)[1]
        path.with_name(BEST_FILE).unlink(missing_ok=True)  # of a training that this one replaces
        return digest

    def _steps_done(self) -> int:
        """The number of steps since training began."""
        if not self.done.stretches:
            return 0
        last = self.stretches[self.done.stretches - 1]
        return last.epoch * self.schedule.epoch_steps + last.last

    def _train(self, stretch: Stretch, bar: tqdm, clock: "_Clock") -> None:
        epoch, before, steps = stretch.epoch, stretch.first, stretch.last - stretch.first
        every = max(1, self.cfg.TRAIN.PRINT_FREQ)
        measured = torch.zeros(steps, 2, device=self.device)
        known: list[list[float]] = []
        start = time.monotonic()
        batches = self.shown.batches
        batches.choose(epoch, stretch.first, stretch.last)
        self.trainer.start_epoch(self.done.stretches)
        for step, (views, labels) in enumerate(self.shown, 1):
            rate = self._set_rates(epoch, before + step - 1)
            measured[step - 1] = self._step(views, labels, batches.size(before + step - 1))
            bar.update()
            clock.done += 1
            if step % every == 0 or step == steps:
                # Only here the host waits for the device.
                recent = mean_over_processes(measured[len(known) : step]).tolist()
                self._check([loss for loss, _ in recent], epoch, before + len(known), rate)
                known += recent
                loss, accuracy = _means(recent)
                done = epoch * self.schedule.epoch_steps + before + step
                self.history.add(Row(epoch + 1, done, loss, accuracy, rate, clock.seconds()))
                mean, right = _means(known)
                bar.set_postfix_str(f"epoch {epoch + 1} loss {mean:.3f}", refresh=False)
                if step < steps:
                    say(f"epoch [{epoch + 1}/{self.schedule.epochs}] batch [{before + step}/"
                        f"{self.schedule.epoch_steps}] loss {loss:.4f} lr {rate:.4e} eta "
                        f"{clock.left():.0f} s", file_only=True)
        had = "" if right is None else f"accuracy {right:.1f} %, "
        say(f"{self._place(stretch)}: loss {mean:.4f}, {had}rate {rate:.3g}, "
            f"{time.monotonic() - start:.1f} s, {duration(clock.left())} left")

    def _place(self, stretch: Stretch) -> str:
        """The end of a stretch, in words."""
        place = f"epoch {stretch.epoch + 1} of {self.schedule.epochs}"
        return place if stretch.ends_epoch else f"{place}, step {stretch.last}"

    def _set_rates(self, epoch: int, step: int) -> float:
        """Set the optimizer's rate for a step, and return it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(epoch, step, group["factor"])
        return self._rate(epoch, step)

    def _rate(self, epoch: int, step: int, factor: float = 1.0) -> float:
        steps = self.schedule.epoch_steps
        own = self.trainer.step_rate(epoch * steps + step, steps)
        return self.schedule.rate(epoch, step, factor) if own is None else factor * own

    def _step(self, views: Sequence[Tensor], labels: Tensor, batch: int) -> Tensor:
        """Args: views, labels: as in `Epochs`. batch: the images of all processes in this step.

        Returns [2]: the loss, and the percentage of images predicted correctly (NaN: the method
        does not report it), each weighted by the process's share of the batch."""
        images, *others = views
        with self.trainer.clip.autocast():
            loss = self.step(images, labels, *others)
        # Gradients are averaged over the processes, so each loss is weighted by its batch share.
        share = len(images) * world_size() / batch
        take_step(self.optimizer, self.scaler, share * loss, self.trainer.clip_norm,
                  self.trainer.change_gradients)
        right = self.trainer.right
        percent = torch.full_like(loss, math.nan) if right is None else 100 * right / len(images)
        return share * torch.stack([loss.detach(), percent])

    def _check(self, losses: list[float], epoch: int, first_step: int, rate: float) -> None:
        for step, loss in enumerate(losses, first_step):
            if loss != loss or abs(loss) == float("inf"):
                key = f"TRAINER.{self.trainer.node}.PREC"
                raise NerpError(
                    f"the loss is {loss} at epoch {epoch + 1}, step {step + 1} (learning rate "
                    f"{rate:g}): training stopped, the last good checkpoint is kept. In half "
                    f"precision {key} amp (or fp32) usually mends this; else lower OPTIM.LR. With "
                    "either it is another run: --overwrite, or another --output-dir"
                )

    def _finish(self, stretch: Stretch) -> None:
        if stretch.ends_epoch:
            with self.trainer.clip.autocast():
                if self.trainer.surveys(stretch.epoch):
                    self.trainer.survey(self._outputs())
                self.trainer.end_epoch(stretch.epoch)
        tensors = self.trainer.learned.state_dict()
        for name, tensor in tensors.items():
            check_finite(name, tensor, f"training stopped after {self._place(stretch)}, the last "
                         "good state is kept; lower OPTIM.LR, with --overwrite")
        if self.weights is not None and stretch.ends_epoch:
            weight = float(self.weights[stretch.epoch])
            mean = self.done.mean or {name: torch.zeros_like(t) for name, t in tensors.items()}
            self.done.mean = {name: mean[name] + weight * t for name, t in tensors.items()}
        if self.best and stretch.ends_epoch and stretch.epoch + 1 < self.schedule.epochs:
            self.step.eval()
            self.best.look(stretch.epoch + 1)
            self.step.train()
        self.done.stretches += 1
        if not is_main():
            return
        self.history.save()
        every, epoch = self.cfg.TRAIN.CHECKPOINT_FREQ, stretch.epoch + 1
        if every and epoch % every == 0 and stretch.ends_epoch and epoch < self.schedule.epochs:
            save_checkpoint(self.directory, self.trainer, tensors, epoch, self.cfg)
        self._save_state(tensors)  # after the last one too: what is left is to test

    def _outputs(self) -> Tensor:
        """Frozen CLIP's outputs for all training images."""
        clip, bench = self.trainer.clip, self.bench
        return encode_images(clip.image_output, clip, bench.train, bench.image_dir, self.cfg,
                             FEATURE_BATCH)

    def _save_state(self, tensors: Mapping[str, Tensor]) -> None:
        optimizer = self.optimizer.state_dict()
        content = {
            "identity": self.identity,
            "epoch": self.stretches[self.done.stretches - 1].epoch + 1,
            "step": self.stretches[self.done.stretches - 1].last,
            "mean": self.done.mean,
            "best": self.best and self.best.state(),
            "tensors": dict(tensors),
            "method": self.trainer.training_state(),
            "optimizer": optimizer,
            "stepped": list(optimizer["state"]),  # the other parameters got no gradient
            "scaler": self.scaler.state_dict(),
        }
        save_tensors(self.directory / STATE_FILE, content, self.directory)

    def resume(self) -> None:
        """Continue from the state that an interrupted run left in the folder, if there is one.

        Raises NerpError if the state is damaged, or if its run was asked for differently.
        """
        path = self.directory / STATE_FILE
        if not path.exists():
            return
        read = load_inert(path)
        content: dict[str, Any] = read if isinstance(read, dict) else {}
        found = content.get("identity")
        if found != self.identity:
            found = found if isinstance(found, dict) else {}
            raise OtherRunError(
                f"{self.directory} holds an interrupted run of something else "
                f"({changes(self.directory, self.cfg, found, self.identity)}): give another "
                "--output-dir, or --overwrite to begin anew"
            )
        with reading(path, "the state of a training; --overwrite begins anew"):
            self._restore(content, path)
        say(f"resuming after {self._place(self.stretches[self.done.stretches - 1])}")

    def _restore(self, content: Mapping[str, Any], path: Path) -> None:
        """Raises NerpError, or what Python raises for content of another form."""
        epoch, step = content["epoch"], content["step"]
        mean, learned = content["mean"], self.trainer.learned
        ends = {(end.epoch + 1, end.last): done for done, end in enumerate(self.stretches, 1)}
        if not (type(epoch) is type(step) is int and (epoch, step) in ends):
            raise ValueError(f"epoch {epoch!r}, step {step!r}, where no state is kept")
        if (mean is None) != (self.weights is None):
            raise ValueError("the mean of the epochs")
        best = content["best"]
        whole = sum(end.ends_epoch for end in self.stretches[: ends[epoch, step]])
        looked = min(whole, self.schedule.epochs - 1) if self.best else 0
        if (best is None) != (looked == 0):
            raise ValueError("the best epoch")
        scale = content["scaler"]
        if scale.keys() != self.scaler.state_dict().keys() or not all(
                type(value) in (int, float) and 0 <= value < math.inf for value in scale.values()):
            raise ValueError("the loss's scale")
        kept = self.trainer.training_state()
        own = [(content["tensors"], learned.state_dict()), (content["method"], kept)]
        own += [(tensors, learned.state_dict()) for tensors in (mean, best and best["tensors"])
                if tensors is not None]
        for tensors, wanted in own:
            if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in wanted.items()}:
                raise ValueError("tensors of another model")
            for name, tensor in tensors.items():
                check_finite(name, tensor, path)
        most = (epoch - 1) * self.schedule.epoch_steps + step
        steps = checked_steps(
            self.optimizer, self.cfg.OPTIM, content["optimizer"]["state"], most, path)
        if list(steps) != content["stepped"]:
            raise ValueError("what the optimizer keeps")
        learned.load_state_dict(content["tensors"])
        self.trainer.resume_training({name: tensor.to(self.device)
                                      for name, tensor in content["method"].items()})
        # The optimizer's settings come from the configuration, and the rate from the schedule.
        fresh = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**fresh, "state": {**fresh["state"], **steps}})
        self.scaler.load_state_dict(scale)
        if mean is not None:
            mean = {name: tensor.to(self.device) for name, tensor in mean.items()}
        if self.best and best:
            self.best.restore(best, looked)
        self.done = _Progress(ends[epoch, step], mean)


def forget_state(directory: Path) -> None:
    """Remove the state from which a finished training would have continued."""
    (directory / STATE_FILE).unlink(missing_ok=True)
