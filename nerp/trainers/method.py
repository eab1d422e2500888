"""What a method defines: settings, learned tensors, features; its loss is `Trainer.loss`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from torch import Tensor
from yacs.config import CfgNode

from nerp.clip.model import Clip, normalise
from nerp.trainers.texts import Classes

SWITCHED_ON = "a photo of a"  # what CTX_INIT True means in published files
# What methods change, in the order of `nerp methods`; one of the user's own may name another.
GROUPS = ("zero-shot", "context", "deep", "adapters", "training-free")


class Method(ABC):
    """What differs between methods, with defaults that hold for most of them; `Trainer` builds on
    it.

    Every method that returns features returns them in float32 and normalised. Callers hold
    `clip.autocast()` around training and testing alike.

    Class attributes:
        node: its node below TRAINER in a configuration. `defaults` is the content of that node: a
            `Key` that states the range of a number, or a plain text or truth value.
        published: nodes below TRAINER or at the top, in any case, where its published files have
            these keys.
        folder: the checkpoint's folder, as in the published code; "" if nothing is learned.
        paper: the publication, for `nerp methods`.
        group: its heading there; one of GROUPS for a method that ships.
        signature: patterns; a checkpoint can be this method's if each matches a tensor's name.
        marks: further patterns, for other tensors of a published file. They are needed if a file
            does not name its method and another method's learned tensors have the same names.
        shape_settings: the settings that a checkpoint holds, because its tensors are useless
            without them.
        fixed: patterns for names of tensors in a checkpoint that are not trained.
        edits: the encoders, "text" and "image", whose layers it changes; only CLIP's own
            transformers have such layers.
        builds_on: setting that names the checkpoint of another method from which a training starts
            -> that method; KEY_EPOCH beside KEY names the epoch.
        by_data: names of tensors whose first dimension depends on the training images or classes,
            not on the tested classes.
        plain: names of further plain values in a checkpoint (`plain_values`).
        on_features: whether it is built or trained on frozen image features, by the hooks of
            `OnFeatures`.
        text_by_image: whether a class has a different feature for each image.
        also_seen: what training sees beyond the labelled images of its classes, in words
            (`seen_besides`).
        reads_labels: whether training reads labels. If not, a class does not count as trained on
            only because its name is known.
        learns_text: whether training changes the feature of any class, trained on or not.
        own_classes: whether a model serves only the classes that it was trained on.
        learns_names: whether training on base classes uses the novel classes' names
            (`Classes.everyone`).
        views: how many augmented views of an image `loss` takes, one after the other.
        loss_by_features: set by a class with its own `loss`, if that looks at images only through
            `image_features` and `logits`.
        all_classes: whether training is on the images of all classes, whatever a run will be tested
            on.
        independent: whether a class has the same logits whichever other classes are tested.
        two_heads: whether trained classes (`Classes.seen`) are predicted differently from others.
        one_entropy: set by a class whose `loss`, its own or an inherited one, is one
            `cross_entropy`, of the logits s f tᵀ of features that are `image_of` and `text_of` the
            encoders' outputs, and terms beside it (`has_one_entropy`).
        keeps_last: whether an incomplete last batch of an epoch is kept; a method that counts in
            steps always keeps it.
        optional: names of tensors that a file may lack; they are then as fresh ones.
        settled: keys of Dassl's in its published files, with the values, as text, that ask for what
            is done anyway.

    Attributes:
        cfg: the whole configuration. settings: the method's own node of it.
        clip: the backbone. classes: what to tell apart.
    """

    node: str
    published: tuple[str, ...] = ()
    folder: str = ""
    paper: str
    group: str = "others"
    defaults: Mapping[str, object]
    signature: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    shape_settings: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()
    builds_on: Mapping[str, str] = MappingProxyType({})
    by_data: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    on_features: bool = False
    also_seen: str = ""
    text_by_image: bool = False
    reads_labels: bool = True
    learns_text: bool = True
    own_classes: bool = False
    learns_names: bool = False
    all_classes: bool = False
    views: int = 1
    loss_by_features: bool = False
    independent: bool = True
    two_heads: bool = False
    one_entropy: bool = False
    keeps_last: bool = False
    optional: tuple[str, ...] = ()
    settled: Mapping[str, Collection[str]] = MappingProxyType({})

    cfg: CfgNode
    settings: CfgNode
    clip: Clip
    classes: Classes

    @classmethod
    def published_values(cls, key: str, value: object) -> dict[str, object]:
        """{setting: value} for a key of a published file whose value means another setting or
        another value here; {"": None} if the key asks for what is done anyway; {} if it means what
        it says. By default: CTX_INIT as a switch between its usual words and a random start."""
        if key == "CTX_INIT" and str(value) in ("True", "False"):
            return {key: SWITCHED_ON if str(value) == "True" else ""}
        return {}

    @classmethod
    def disregards(cls, name: str, value: object) -> str | None:
        """Of a key of published files, by its full name, that asks for what is not done here and is
        passed over: what to say of it, "" for nothing; None for any other key."""
        return None

    @classmethod
    def unfit(
        cls, cfg: CfgNode, names: Sequence[str], source: str, trained: Sequence[str]
    ) -> str:
        """Why a training on the classes called `names` cannot build on one of the dataset `source`
        and its classes `trained`, "" and () where its file does not say; "" where it can."""
        return ""

    @classmethod
    def lacks(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a test needs what these tensors of a checkpoint build on, too."""
        return False

    @classmethod
    def taken_over(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that a checkpoint takes over from one that it builds on, by their names in
        it."""
        return {}

    @classmethod
    def fits(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether tensors with the signature's names have this method's shapes."""
        return True

    @classmethod
    def refusal(cls, tensors: Mapping[str, Tensor], clip: Clip) -> str:
        """Why tensors with the signature's names cannot serve this backbone, in words; "" if their
        shapes will show it."""
        return ""

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        """The settings that a checkpoint's tensors imply."""
        return {}

    @classmethod
    def unpack(
        cls, content: Mapping[str, object]
    ) -> tuple[dict[str, Tensor], dict[str, object]] | None:
        """Tensors and shape settings of a published file in a layout of the method's own, which has
        no state_dict; None for another file. A damaged file may raise any error."""
        return None

    @classmethod
    def published_file(cls, cfg: CfgNode) -> str:
        """The path of such a file of this run, below the given folder, where the published code
        writes it; "" if it writes none."""
        return ""

    @classmethod
    def carried(cls, task: str) -> tuple[str, ...]:
        """The settings that a checkpoint decides, if it holds them, in a test under the protocol
        `task`: by default its shape settings."""
        return cls.shape_settings

    def check(self) -> None:
        """Raise NerpError for settings that do not fit the backbone."""

    def initial(self) -> dict[str, Tensor]:
        """Freshly initialised learned tensors, under their names in published checkpoints."""
        return {}

    def prepare(self) -> None:
        """Compute what depends on the classes but not on the learned tensors."""

    def misfit(self, tensors: Mapping[str, Tensor]) -> str:
        """Why the tensors of a checkpoint are not this trainer's, in words, if their shapes alone
        would not show it; else ""."""
        return ""

    @abstractmethod
    def class_features(self, images: Tensor | None = None) -> Tensor:
        """t [C, D]; for a method whose text depends on the image, those of `images` [B, C, D]."""

    def image_features(self, images: Tensor) -> Tensor:
        """f [B, D] of images [B, 3, H, W], or of frozen CLIP's image encoder outputs [B, D]."""
        return self.from_frozen(images if images.dim() == 2 else self.clip.image_output(images))

    def from_frozen(self, output: Tensor) -> Tensor:
        """f [B, D] from frozen CLIP's image encoder outputs [B, D], if `image_features` is not
        defined."""
        return self.image_of(output)

    def image_of(self, v: Tensor) -> Tensor:
        """f of v [..., D], what the image encoder, and what stands behind it, gives of images."""
        return normalise(v)

    def text_of(self, u: Tensor) -> Tensor:
        """t of u [..., D], the same of texts of the classes."""
        return normalise(u)

    def frozen_prompts(self) -> list[list[str]]:
        """For each class, the texts whose frozen features average to t*."""
        return [[prompt] for prompt in self.classes.prompts]

    @abstractmethod
    def tuned_neutral(self) -> Tensor:
        """The tuned text encoder's feature of the neutral prompt [D], or [C, D] one per class."""

    def prepare_training(self) -> None:
        """Read and compute what only training needs, before anything is written. Raises NerpError
        for files that cannot be used."""

    @classmethod
    def seen_besides(cls, cfg: CfgNode) -> str:
        """What a training with this configuration has seen beyond the labelled images, in words, to
        be shown beside every number made with it; "" for nothing. Also used by a test whose
        checkpoint does not say."""
        return cls.also_seen

    def start_epoch(self, epoch: int) -> None:
        """Called before the steps of epoch 0, 1, ...: random draws in a step depend only on the
        run's seed and this number, so that a resumed run draws the same. For a method that counts
        in steps, the stretches after which a state is kept are counted instead."""

    @property
    def steps(self) -> int | None:
        """The number of steps of a training, for a method that counts in steps. Its last epoch may
        then end early, and an incomplete last batch is kept. None: a training has OPTIM.MAX_EPOCH
        epochs."""
        return None

    def step_rate(self, step: int, epoch_steps: int) -> float | None:
        """The learning rate of step 0, 1, ... of the whole training, of a method with a schedule of
        its own; None: OPTIM's."""
        return None

    def surveys(self, epoch: int) -> bool:
        """Whether it looks at all training images after the steps of an epoch, before
        `end_epoch`."""
        return False

    def survey(self, outputs: Tensor) -> None:
        """Look at what frozen CLIP's image encoder gives of all training images [N, D], of any
        length, after the test transform."""

    def saved(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of the learned tensors that a checkpoint has."""
        return tensors

    def trained_score(self) -> Callable[[Tensor], Tensor] | None:
        """Scores [B] of image features f [B, D], of a method with `frozen_images` that says itself
        how likely they show a trained class; None: it does not."""
        return None

    def rate_factor(self, name: str) -> float:
        """The factor of a learned tensor's learning rate, except during warm-up."""
        return 1.0

    @property
    def clip_norm(self) -> float:
        """The norm to which the joint gradient of all learned tensors is clipped; 0: none."""
        return 0.0

    def change_gradients(self) -> None:
        """Called in every step when the gradients of all processes together are there, before the
        optimiser takes them; they may be scaled. For a method that steps otherwise than down its
        loss."""

    def end_epoch(self, epoch: int) -> None:
        """Called after the steps of epoch 0, 1, ..., before its tensors are saved, for changes
        without a gradient."""

    def training_state(self) -> dict[str, Tensor]:
        """Tensors, by name, that an interrupted training needs besides the learned ones to
        continue."""
        return {}

    def resume_training(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `training_state` gave, of the same names and shapes."""

    def epoch_weights(self, epochs: int) -> Tensor | None:
        """Weights [E] of the epochs' tensors in the final ones; None: the last epoch's tensors."""
        return None

    def plain_values(self) -> dict[str, object]:
        """Texts, numbers, and lists and dicts of them, that belong to the learned tensors."""
        return {}

    def recall(self, trained: Sequence[str], plain: Mapping[str, object]) -> None:
        """Take what a checkpoint holds besides its tensors. Raises NerpError if it does not belong
        to them.

        Args: trained: the trained classes, () if it does not name them. plain: those of
        `plain_values` that are there.
        """

    @property
    def about_classes(self) -> str:
        """A line for the log about how the tested classes are predicted, or ""."""
        return ""

    def account(self, untrained: Callable[[], Collection[str]]) -> dict[str, object]:
        """Further fields for the record of a training run.

        Args: untrained: names of the dataset's classes that are not trained on; a test may be of
        these.
        """
        return {}

    @property
    def substitute(self) -> str:
        """What training uses in place of files that are needed and were not given, in words."""
        return ""

    @property
    def test_substitute(self) -> str:
        """The same for a test."""
        return ""
