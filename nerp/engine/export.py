"""A trained model for other programs: class weights, whole weights, a graph, and how to use them.

The exported files give this model's logits, up to float32's rounding. A model that a form cannot
express is refused, and the message names the obstacle.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from nerp.base.beside import remove
from nerp.base.errors import NerpError
from nerp.base.paths import holding, write_bytes
from nerp.clip.model import Clip
from nerp.clip.open_clips import CONFIG_FILE, FROM_FOLDER, open_clips_files, own_arguments
from nerp.clip.open_clips import WEIGHTS_FILE as BACKBONE_FILE
from nerp.correction.shifting import Shift
from nerp.correction.wrapper import values
from nerp.engine.calibrators import Temperature
from nerp.engine.export_onnx import graph
from nerp.engine.export_page import page
from nerp.engine.model import Model
from nerp.settings.protocols import NERP_SUFFIX
from nerp.trainers.base import Trainer
from nerp.trainers.linear import LinearClassifier

WEIGHTS_FILE, ARRAYS_FILE = "class_weights.safetensors", "class_weights.npz"
GRAPH_FILE, PAGE_FILE = "model.onnx", "README.md"
# The files that an export may write, in any form.
_FILES = (WEIGHTS_FILE, ARRAYS_FILE, CONFIG_FILE, BACKBONE_FILE, GRAPH_FILE, PAGE_FILE)
_INTERPOLATIONS = ("bicubic", "bilinear")


@torch.no_grad()
def export(
    model: Model, directory: Path, *, onnx: bool = False, overwrite: bool = False
) -> list[Path]:
    """Write a model, in float32, into a folder; returns the files.

    Args:
        model: of `nerp.load`, its precision fp32.
        directory: an empty folder, or one that does not exist.
        onnx: the whole model as a graph; otherwise class weights for CLIP's image features, and
            CLIP's own weights if open_clip does not have them.
        overwrite: whether an earlier export in the folder, of either form, is replaced.

    Raises NerpError for a model that this form cannot express, and for a folder with other files.
    """
    if directory.exists() and not overwrite and (
            not directory.is_dir() or any(directory.iterdir())):
        raise NerpError(f"{directory} is there already, and not empty: give another folder, or "
                        "--overwrite")
    if model.resolved.cfg.INPUT.INTERPOLATION not in _INTERPOLATIONS:
        raise NerpError(f"INPUT.INTERPOLATION {model.resolved.cfg.INPUT.INTERPOLATION}: open_clip, "
                        f"by which images are prepared, has {' and '.join(_INTERPOLATIONS)}")
    factor, bias = finishing(model)
    if onnx:
        arguments = None
        contents = {GRAPH_FILE: graph(model, factor, bias)}
    else:
        linear, folded = weights(model.trainer)
        arguments = None if folded else own_arguments(model.resolved.cfg.MODEL.BACKBONE)
        contents = _class_weights(model, linear.then(factor, bias))
        if arguments is None:
            contents |= _backbone(model, folded)
            arguments = FROM_FOLDER
    contents[PAGE_FILE] = page(model, arguments).encode()
    with holding(directory):
        for name, content in contents.items():
            write_bytes(directory / name, content, directory)
        for name in _FILES:  # an earlier export's files belong to another model
            if name not in contents and not (directory / name).is_dir():
                remove(directory / name)
    return [directory / name for name in contents]


def weights(trainer: Trainer) -> tuple[LinearClassifier, Mapping[str, Tensor] | None]:
    """The linear classifier of CLIP's normalised image features, with weights [C, D]; and CLIP's
    state dict if it differs from the backbone's. Raises NerpError for a model without this form."""
    linear = trainer.linear_classifier()
    if linear is not None:
        return linear, None
    folded = trainer.folded() if trainer.is_cosine() else None
    if folded is None:
        raise NerpError(f"{trainer.node}: {obstacle(trainer)}, so no class weights give its "
                        "logits; --onnx writes the whole model")
    return LinearClassifier.cosine(trainer.class_features(), trainer.scale), folded


def obstacle(trainer: Trainer) -> str:
    """The reason, in words, why class weights on CLIP's image features cannot express a model."""
    if trainer.text_by_image:
        return "a class has different features for different images"
    if not trainer.frozen_images:
        return "it changes the image encoder"
    if trainer.is_cosine() or not trainer.on_features:
        return "it changes the image features"
    return "its logits are not linear in the image feature"


def finishing(model: Model) -> tuple[float, Tensor]:
    """a and b [C], if the correction and calibration of a model's logits z are a z + b.

    Raises NerpError if they have another form.
    """
    factor, bias = 1.0, torch.zeros(len(model.classes))
    if model.finishing is None:
        return factor, bias
    nerp, calibrator = model.finishing.opened(model.trainer)
    if nerp:
        rule = nerp.rule
        if not isinstance(rule, Shift) or rule.uses_pairs:
            raise NerpError(f"NERP.RULE {rule.name}: its effect depends on the image, and an "
                            "export holds one bias per class: NERP.RULE shift, with NERP.SCOPE all")
        no_logits = torch.zeros(0, len(model.classes))  # a shift's bias depends on the priors alone
        bias = bias - rule.bias(no_logits, values(nerp.priors)).float().cpu()
    if isinstance(calibrator, Temperature):
        factor = 1 / calibrator.value
    elif calibrator:
        raise NerpError(f"TEST.CALIBRATION {calibrator.name}: its effect depends on the image, "
                        "and an export holds one factor: TEST.CALIBRATION temperature")
    return factor, factor * bias


def _class_weights(model: Model, linear: LinearClassifier) -> dict[str, bytes]:
    """The files' contents."""
    tensors = {
        "weight": linear.weight.float().cpu().contiguous(),
        "scale": torch.tensor(linear.scale), "bias": linear.bias.float().cpu().contiguous(),
    }
    about = {"format": "pt", "classnames": json.dumps(model.classes), **_origin(model)}
    arrays = io.BytesIO()
    np.savez(arrays, allow_pickle=False, classnames=np.array(model.classes),
             **{name: tensor.numpy() for name, tensor in tensors.items()})
    return {WEIGHTS_FILE: save(tensors, about), ARRAYS_FILE: arrays.getvalue()}


def _backbone(model: Model, folded: Mapping[str, Tensor] | None) -> dict[str, bytes]:
    """The files' contents for the backbone, or for the state dict that replaces its own."""
    cfg, clip = model.resolved.cfg, model.trainer.clip
    state = clip.model.state_dict() if folded is None else folded
    return open_clips_files(clip, cfg.MODEL.BACKBONE.NAME, state, cfg.INPUT)


def _origin(model: Model) -> dict[str, str]:
    """The origin of a model, for a reader who has only the file."""
    from nerp import __version__

    clip: Clip = model.trainer.clip
    corrected = model.finishing is not None and model.finishing.request.trainer.endswith(
        NERP_SUFFIX)
    return {
        "method": model.resolved.method + (NERP_SUFFIX if corrected else ""),
        "backbone": clip.name, "backbone_digest": clip.digest, "nerp": __version__,
    }
