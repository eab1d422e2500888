"""TaskRes: a learned addition to each class's frozen text feature."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip, normalise
from nerp.clip.templates import ENSEMBLE_7
from nerp.clip.towers import TextTower
from nerp.files.opening import reading
from nerp.files.tensors import load_inert
from nerp.settings.keys import file, number
from nerp.trainers.base import precision
from nerp.trainers.frozen_text import PlainText
from nerp.trainers.votes import plain_name

_RESIDUALS, _BASE = "text_feature_residuals", "base_text_features"
_SHOWN = 3  # the most names in a message


@contextlib.contextmanager
def _projected_by(weight: Tensor, encoder: TextTower) -> Iterator[None]:
    """Make the text encoder project with `weight` [D, W_t] instead of its own projection."""
    own = encoder.model.text_projection
    encoder.model.text_projection = nn.Parameter(weight.t().to(own), requires_grad=False)
    try:
        yield
    finally:
        encoder.model.text_projection = own


def _read_projection(path: Path, clip: Clip) -> Tensor:
    """The weight [D, W_t] from a file of an "enhanced base". Raises NerpError for another file."""
    content: Any = load_inert(path)
    with reading(path, "a file of an enhanced base, {'state_dict': {'weight': [D, W_t]}}"):
        weight: Tensor = content["state_dict"]["weight"]
        shape = clip.embed_dim, clip.text.width
        if tuple(weight.shape) != shape or not weight.isfinite().all():
            raise ValueError(f"its weight is {tuple(weight.shape)}, this backbone needs {shape}")
    return weight


@TRAINERS.register("TaskRes")
class TaskRes(PlainText):
    """Class features are normalise(u° + α x); u° are the frozen text encoder's outputs.

    Loss: CE(s f tᵀ). Learned: text_feature_residuals x [C, D]. Stored but not trained:
    base_text_features u° [C, D]. A model can predict only its trained classes. See
    docs/methods/taskres.md.
    """

    node = "TASKRES"
    folder = "prompt_learner"
    paper = "Yu et al., Task Residual for Tuning Vision-Language Models, CVPR 2023"
    group = "adapters"
    defaults = {
        "RESIDUAL_SCALE": number(0.5, least=0),
        "ENHANCED_BASE": file(""),  # another projection of the text encoder
        "PREC": precision("fp16"),
    }
    signature = (_RESIDUALS,)
    fixed = (_BASE,)
    by_data = (_RESIDUALS, _BASE)
    shape_settings = ("RESIDUAL_SCALE",)
    own_classes = True

    trained: tuple[str, ...] | None = None  # the classes of the rows; () if unknown
    rows: Tensor | None = None  # the tested classes' rows; None: all, in their order

    @classmethod
    def published_values(cls, key: str, value: object) -> dict[str, object]:
        """The published code never reads CoOp's keys. Its ENHANCED_BASE "none" means no base."""
        if key in ("N_CTX", "CSC", "CTX_INIT", "CLASS_TOKEN_POSITION"):
            return {"": None}
        if (key, value) == ("ENHANCED_BASE", "none"):
            return {key: ""}
        return super().published_values(key, value)

    def initial(self) -> dict[str, Tensor]:
        base = self.start.get(_BASE)
        if base is None:
            self.trained = self.classes.names
            base = self.base_features()
        return {_RESIDUALS: torch.zeros(len(self.classes.names), self.clip.embed_dim), _BASE: base}

    def base_features(self) -> Tensor:
        """u° [C, D] of the classes. Names keep their underscores. On ImageNet it is the mean over
        eight templates."""
        more = ENSEMBLE_7 if self.classes.dataset == "ImageNet" else ()
        templates = [*more, self.classes.template]
        with self._enhanced():
            columns = [
                self.clip.text_features([template.format(name) for name in self.classes.as_written])
                for template in templates
            ]
        return torch.stack(columns).mean(0)

    def _enhanced(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the text encoder has the projection of ENHANCED_BASE, if that names a
        file."""
        path, encoder = self.settings.ENHANCED_BASE, self.clip.text
        if not path:
            return contextlib.nullcontext()
        if not isinstance(encoder, TextTower):
            raise NerpError("TRAINER.TASKRES.ENHANCED_BASE takes the place of the projection of "
                            f"CLIP's text transformer; this backbone has {encoder.kind}")
        return _projected_by(_read_projection(Path(path).expanduser(), self.clip), encoder)

    def prepare(self) -> None:
        if self.trained is not None:
            self.rows = self._rows(self.trained)

    def recall(self, trained: Sequence[str], plain: Mapping[str, object]) -> None:
        counts = [len(self.learned.state_dict()[name]) for name in self.by_data]
        if counts[0] != counts[1] or trained and len(trained) != counts[0]:
            raise ValueError("its residuals do not belong to its class features or its classes")
        self.trained = tuple(trained)
        self.prepare()

    def _rows(self, trained: tuple[str, ...]) -> Tensor | None:
        """The tested classes' rows among the trained classes; None for all in order. Classes of an
        ImageNet variant are found by their index in ImageNet, others by name. Raises NerpError if
        a tested class was not trained on."""
        names, within = self.classes.names, self.classes.within
        count = len(self.parameter(_RESIDUALS))
        if trained == names or not trained and len(names) == count and not within:
            return None
        known = {plain_name(name): row for row, name in enumerate(trained)}
        if within and within.total == count and (
                not trained or [trained[place] for place in within.places] == list(names)):
            return torch.tensor(within.places, device=self.clip.device)
        missing = [name for name in names if plain_name(name) not in known]
        if missing or not trained:
            which = ", ".join(missing[:_SHOWN]) + (" ..." if len(missing) > _SHOWN else "")
            raise NerpError(f"TaskRes has a residual for each of the {count} classes that it was "
                            f"trained on and serves no others; it was not trained on {which}")
        rows = [known[plain_name(name)] for name in names]
        return torch.tensor(rows, device=self.clip.device)

    def _asked(self, tensor: Tensor) -> Tensor:
        return tensor if self.rows is None else tensor[self.rows]

    def frozen_class_features(self, images: Tensor | None = None) -> Tensor:
        return normalise(self._asked(self.learned.get_buffer(_BASE)))

    def class_features(self, images: Tensor | None = None) -> Tensor:
        base = self.learned.get_buffer(_BASE)
        scale = self.settings.RESIDUAL_SCALE
        return normalise(self._asked(base + scale * self.parameter(_RESIDUALS)))
