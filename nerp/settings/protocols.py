"""The experimental protocols, and where a run of each keeps its files.

Base-to-novel trains on the first half of a dataset's classes and tests on each half separately.
Cross-dataset trains on all classes of a source and tests on other datasets. Few-shot trains and
tests on all classes. (CoOp, Zhou et al. 2022, sections 4.1-4.2; CoCoOp, section 4.) The open world
trains as base-to-novel does and tests on all classes at once (DeCoOp, Zhou et al. 2024).
"""

from dataclasses import dataclass
from pathlib import Path

from nerp.base.errors import NerpError
from nerp.base.registry import unknown
from nerp.settings.backbones import DEFAULT_BACKBONE, backbone_in, folder_of

NERP_SUFFIX = "_NeRP"
SAR_SUFFIX, DEPT_SUFFIX = "_SAR", "_DePT"  # they come before _NeRP
# Suffixes for additions to a method's training -> their nodes below TRAINER.
TRAINING_SUFFIXES = {SAR_SUFFIX: "SAR", DEPT_SUFFIX: "DEPT"}
COMPARISON_FILE = "corrections.json"  # what `nerp correct` leaves in a run's folder
RESULT_FILE = "result.json"  # what a finished run leaves in its folder
PREDICTIONS_FILE = "predictions.npz"  # what a test leaves with `SAVE_LOGITS`
SAVE_LOGITS = "--save-logits"  # an argument of nerp test that changes no number
CONFIG_FILE = "config.yaml"  # the run's whole configuration, written at its start


@dataclass(frozen=True)
class Protocol:
    """The names of a protocol: `task` in a configuration, `name` on the command line and in tables,
    `folder` in output paths (the one CoOp's scripts use). `trains`: the task whose trained models
    it tests, "" for its own."""

    task: str
    name: str
    folder: str
    trains: str = ""


PROTOCOLS = (
    Protocol("B2N", "base_to_novel", "base2new"),
    Protocol("CD", "cross_dataset", "cross_dataset"),
    Protocol("FS", "few_shot", "few_shot"),
    Protocol("OW", "open_world", "open_world", trains="B2N"),
)


def protocol(key: str) -> Protocol:
    """The protocol called `key` by any of its names. Raises NerpError for an unknown one."""
    for entry in PROTOCOLS:
        if key in (entry.task, entry.name, entry.folder):
            return entry
    raise unknown("protocol", str(key), [entry.task for entry in PROTOCOLS])


def task(key: str) -> str:
    """The task of the protocol called `key`: B2N, CD, FS or OW. Raises NerpError as `protocol`."""
    return protocol(key).task


def training_task(key: str) -> str:
    """The task whose trained models the protocol called `key` tests. Raises NerpError as `protocol`
    does."""
    return protocol(key).trains or task(key)


def trained_name(trainer: str) -> str:
    """The name of a test's training, without NeRP: CoOp_SAR_NeRP -> CoOp_SAR."""
    return trainer.removesuffix(NERP_SUFFIX)


def plain_name(trainer: str) -> str:
    """The method whose checkpoints a trainer uses: CoOp_SAR_NeRP -> CoOp, but CoOp_DePT_NeRP ->
    CoOp_DePT, since DePT adds tensors."""
    return trained_name(trainer).removesuffix(SAR_SUFFIX)


def bare_name(trainer: str) -> str:
    """The method alone, without SAR, DePT and NeRP: CoOp_DePT_NeRP -> CoOp."""
    return plain_name(trainer).removesuffix(DEPT_SUFFIX)


def training_node(trainer: str) -> str:
    """The node below TRAINER of the addition to a method's training: CoOp_SAR_NeRP -> SAR; "" for
    none."""
    return next((node for suffix, node in TRAINING_SUFFIXES.items()
                 if trained_name(trainer).endswith(suffix)), "")


def run_dir(
    root: str | Path,
    *,
    task: str,
    phase: str,
    classes: str,
    dataset: str,
    shots: int,
    trainer: str,
    config: str,
    seed: int,
    backbone: str = DEFAULT_BACKBONE,
) -> Path:
    """Where a run keeps its files, below `root`.

    `output/<protocol>/<train_base|test_new|...>/<dataset>/shots_<k>/<trainer>/<config>/seed<s>`;
    a backbone other than the default adds a level before <config>, unless that level would have the
    name of <config>. A run that an earlier version placed without the level stays there.

    Args:
        phase: "train" or "test".
        classes: DATASET.SUBSAMPLE_CLASSES, "all", "base" or "new".
        dataset: the card's name (eurosat); config: the method configuration's stem (vit_b16).
        backbone: MODEL.BACKBONE.NAME.
    """
    if phase not in ("train", "test"):
        raise NerpError(f"phase {phase!r}: train or test")
    above = Path(root).joinpath(
        protocol(task).folder,
        f"{phase}_{classes}",
        dataset,
        f"shots_{shots}",
        trainer,
    )
    former, level = above / config / f"seed{seed}", folder_of(backbone)
    if level in ("", config):
        return former
    own = above / level / config / f"seed{seed}"
    stays = not own.exists() and backbone_in(former / CONFIG_FILE) == backbone
    return former if stays else own
