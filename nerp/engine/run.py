"""One run from its command line to its record: `nerp train` and `nerp test`."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nerp.base.distributed import agree, is_main
from nerp.base.errors import NerpError
from nerp.base.log import RunLog, say
from nerp.base.registry import TRAINERS
from nerp.correction.correction import Correction
from nerp.data.benchmark import Benchmark, open_benchmark
from nerp.data.digests import images_state
from nerp.engine.built_on import starting_tensors
from nerp.engine.cache import built, cache_file, cached_features, cached_logits, logits_key
from nerp.engine.calibrate import open_calibrator
from nerp.engine.calibrators import Calibrator
from nerp.engine.correct import correction_record, open_nerp
from nerp.engine.doubtful import warn
from nerp.engine.evaluate import compute_logits, result_block, result_record
from nerp.engine.feature_training import FeatureTraining
from nerp.engine.identity import check_unchanged, test_identity, training_identity
from nerp.engine.metrics import auroc
from nerp.engine.open_world import check_training
from nerp.engine.record import (
    CONFUSION_FILE,
    claiming,
    is_finished,
    recording,
    save_predictions,
    write_confusion,
)
from nerp.engine.record_file import RunRecord
from nerp.engine.tested import (
    Tested,
    class_set,
    known_names,
    open_clip_model,
    open_record,
    run_benchmark,
    tested_items,
)
from nerp.engine.train import TrainingRun, forget_state
from nerp.settings.protocols import NERP_SUFFIX, PREDICTIONS_FILE, trained_name
from nerp.settings.resolve import Request, Resolved, resolve
from nerp.trainers.on_features import OnFeatures


def run_training(request: Request, overwrite: bool = False) -> Path:
    """Train, save, test on the same classes; returns the folder with the record.

    A finished run is not repeated; an interrupted run continues. Raises NerpError if the request
    cannot be carried out; nothing is written before the work can begin.
    """
    if request.trainer.endswith(NERP_SUFFIX):
        raise NerpError(f"NeRP trains nothing: train {trained_name(request.trainer)}, then test "
                        f"{request.trainer} with --model-dir")
    with RunLog() as log:
        resolved = resolve(request, "train", anew=overwrite)
        cfg, directory = resolved.cfg, resolved.directory
        if not TRAINERS[request.trainer].folder:
            raise NerpError(f"{request.trainer} learns nothing: nerp test --trainer "
                            f"{request.trainer}")
        check_training(cfg)
        bench = run_benchmark(cfg, directory)
        if not bench.train:
            raise NerpError(f"{bench.name}: the training split is empty")
        identity = training_identity(cfg, bench)
        with claiming(directory):
            done = is_main() and is_finished(resolved, identity, overwrite)
            if agree(done):
                return directory
            _train(resolved, bench, identity, log)
    return directory


def _train(resolved: Resolved, bench: Benchmark, identity: dict[str, object], log: RunLog) -> None:
    cfg, directory = resolved.cfg, resolved.directory
    clip = open_clip_model(resolved)
    torch.manual_seed(cfg.SEED)
    classes = replace(class_set(cfg, bench, seen=True), everyone=known_names(cfg, bench))
    trainer, inputs = built(
        lambda: TRAINERS[cfg.TRAINER.NAME](
            cfg, clip, classes, start=starting_tensors(cfg, classes.names)), cfg
    )
    say(f"{cfg.TRAINER.NAME}: {sum(p.numel() for p in trainer.parameters()):,} learned "
        f"parameters; {len(bench.train)} training images of {len(bench.classnames)} classes")
    if trainer.substitute:
        say(f"{cfg.TRAINER.NAME}: {trainer.substitute}")
    also_seen = trainer.seen_besides(cfg)
    if also_seen:
        say(f"{cfg.TRAINER.NAME} sees in training, beyond the labelled images: {also_seen}")
    doubtful = warn(trainer, bench, cfg)
    training: FeatureTraining | TrainingRun
    if isinstance(trainer, OnFeatures):
        training = FeatureTraining(trainer, bench, cfg, directory, identity)
    else:
        training = TrainingRun(trainer, bench, cfg, directory, identity)
    training.resume()
    with recording(log, resolved) as record:
        path = training.run()
        say("Finish training")
        if not cfg.TEST.NO_TEST:
            items = tested_items(bench, cfg)
            images = images_state(items, bench.image_dir)
            keep = partial(cached_features, bench, items, images, cfg, clip, directory)
            logits = cached_logits(
                cache_file(path.parent, directory, cfg),
                logits_key(trainer, training.digest, inputs, bench.image_dir, images, cfg),
                (len(items), len(bench.classnames)),
                lambda: compute_logits(trainer, items, bench.image_dir, cfg, keep),
            )
            labels = np.array([item.label for item in items])
            record.update(_measured(labels, logits, bench.classnames, None))
        record.update(kind="train", identity=identity, **training.record,
                      checkpoint=str(path.relative_to(directory)), **doubtful)
        if features := training.features:
            record["features"] = {"read": features.read, "encoded": features.encoded}
            say(f"frozen features of training images: {features.read} sets read, "
                f"{features.encoded} encoded", file_only=True)
        if trainer.substitute:
            record["substitute"] = trainer.substitute
        if also_seen:
            record["also_seen"] = also_seen
        record.update(trainer.account(
            lambda: set(open_benchmark(cfg).classnames).difference(bench.classnames)
        ))
        if is_main():
            check_unchanged(directory, cfg, identity, training_identity(cfg, bench))
    if is_main():
        forget_state(directory)


def run_test(
    request: Request, *, save_logits: bool = False, save_confusion: bool = False,
    overwrite: bool = False,
) -> Path:
    """Test a checkpoint (or zero-shot CLIP), corrected with NeRP if the name ends in _NeRP. Returns
    the folder with the record.

    A finished test is not repeated. Raises NerpError if the request cannot be carried out; nothing
    is written before the work can begin.
    """
    with RunLog() as log:
        resolved = resolve(request, "test", anew=overwrite)
        cfg, directory = resolved.cfg, resolved.directory
        tested = Tested(resolved)
        checkpoint = tested.checkpoint
        identity = test_identity(tested)
        wanted = [PREDICTIONS_FILE] * save_logits + [CONFUSION_FILE] * save_confusion
        with claiming(directory):
            done = is_main() and is_finished(resolved, identity, overwrite, wanted)
            if agree(done):
                return directory
            nerp = open_nerp(tested)
            with recording(log, resolved) as record:
                correction = None
                if cfg.TRAINER.NAME.endswith(NERP_SUFFIX):
                    correction = (nerp.correct(tested.logits) if nerp
                                  else Correction.none(tested.logits))
                calibrator = open_calibrator(tested)
                record.update(_measured(
                    tested.labels, tested.logits, tested.bench.classnames, correction, tested.base,
                    calibrator,
                ))
                if tested.base is not None:
                    record["open_world"] = open_record(tested)
                    scores = tested.trained_scores()
                    if scores is not None:
                        record["auroc_detector"] = 100 * auroc(scores, tested.base[tested.labels])
                if nerp and correction:
                    record["nerp"] = correction_record(nerp, correction, tested)
                record.update(
                    kind="test", identity=identity, epoch=checkpoint.epoch if checkpoint else 0
                )
                if tested.substitute:
                    record["substitute"] = tested.substitute
                if tested.contradiction:
                    say(f"{tested.contradiction}; nerp table leaves this test out")
                    record["contradiction"] = tested.contradiction
                if tested.also_seen:
                    say(f"trained, too, with {tested.also_seen}")
                    record["also_seen"] = tested.also_seen
                if is_main():
                    del tested.images  # so that their state is read again
                    check_unchanged(directory, cfg, identity, test_identity(tested))
                if save_logits and is_main():
                    save_predictions(tested, nerp, correction, identity, calibrator)
                if save_confusion and is_main():
                    write_confusion(tested, correction)
    return directory


def _measured(
    labels: npt.NDArray[np.int64], logits: Tensor, classnames: list[str],
    correction: Correction | None, base: npt.NDArray[np.bool_] | None = None,
    calibrator: Calibrator | None = None,
) -> RunRecord:
    record = result_record(labels, logits, classnames, correction, base, calibrator)
    say(result_block(record))
    return record
