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
    """What methods differ in, with what holds for most of them; `Trainer` builds on it.

    Every method that returns features returns them in float32 and normalised. Callers hold
    `clip.autocast()` around training and testing alike.

    Class attributes:
        node: its node below TRAINER in a configuration, and `defaults` what is in it: a `Key` that
            states the range of a number, or a plain text or truth value.
        published: nodes below TRAINER or at the top, in any case, that its published files have
            these in.
        folder: the checkpoint's folder, as in the published code; "" where nothing is learned.
        paper: the publication, for `nerp methods`.
        group: the heading that it stands under there; one of GROUPS for a method that ships.
        signature: patterns; a checkpoint can be this method's where each matches a tensor's name.
        marks: further ones, of what a published file also holds; needed of a file that does not
            say whose it is, where the learned tensors alone have another method's names.
        shape_settings: the settings that a checkpoint carries, since its tensors are of no use
            without them.
        fixed: patterns of names of tensors in a checkpoint that are not trained.
        edits: the encoders, "text" and "image", whose layers it reaches into; only CLIP's own
            transformers have layers for that.
        builds_on: settings that name the checkpoint of another method which a training starts
            from -> that method; KEY_EPOCH beside KEY says which epoch's.
        by_data: names of tensors whose first dimension the images or classes trained on decide, not
            the classes asked about.
        plain: names of the plain values that a checkpoint has besides (`plain_values`).
        on_features: whether it is built or trained on frozen image features, by the hooks of
            `OnFeatures`.
        text_by_image: whether a class has another feature for each image.
        also_seen: what a training has seen beyond the labelled images of the classes that it is
            on, in words (`seen_besides`).
        reads_labels: whether training reads labels; where it does not, that a checkpoint names a
            class does not mean it was trained on.
        learns_text: whether training changes the feature of any class, trained on or not.
        own_classes: whether a model serves no classes but those that it was trained on.
        learns_names: whether training on base classes makes use of the novel classes' names
            (`Classes.everyone`).
        views: how many augmented views of an image `loss` takes, one after the other.
        loss_by_features: said by a class beside a `loss` that looks at images through
            `image_features` and `logits` alone.
        all_classes: whether training is on the images of all classes, whatever a run is to be
            tested on.
        independent: whether a class has the same logits whichever other classes are asked about.
        two_heads: whether classes that were trained on (`Classes.seen`) are predicted otherwise
            than others.
        one_entropy: said by a class beside a `loss`, its own or an inherited one, that is one
            `cross_entropy`, of the logits s f tᵀ of features that are `image_of` and `text_of` the
            encoders' outputs, and terms beside it (`has_one_entropy`).
        keeps_last: whether the last batch of an epoch is kept where it is incomplete; of a method
            that counts in steps it always is.
        optional: names of tensors that a file may lack; they are then as fresh ones.
        settled: keys of Dassl's that its published files have, with the values, as text, that ask
            for what is done anyway.

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
        """{setting: value} that a key of a published file means where it means another one, or the
        same with another value; {"": None} where it asks for what is done anyway; {} where it
        means what it says. Here: CTX_INIT as a switch between its usual words and a random
        start."""
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
        """Why tensors with the signature's names cannot serve this backbone, in words; "" where
        their shapes are to say it."""
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
        """Tensors and shape settings of a published file in a layout of the method's own, which
        has no state_dict; None for another file. What is wrong in it may raise anything."""
        return None

    @classmethod
    def published_file(cls, cfg: CfgNode) -> str:
        """Where the published code leaves such a file of this run, below the folder it is given;
        "": it leaves none."""
        return ""

    @classmethod
    def carried(cls, task: str) -> tuple[str, ...]:
        """The settings that a checkpoint decides, where it knows them, in a test under the
        protocol `task`: its shape settings."""
        return cls.shape_settings

    def check(self) -> None:
        """Raise NerpError for settings that do not fit the backbone."""

    def initial(self) -> dict[str, Tensor]:
        """Freshly initialised learned tensors, under their names in published checkpoints."""
        return {}

    def prepare(self) -> None:
        """Whatever depends on the classes and not on the learned tensors."""

    def misfit(self, tensors: Mapping[str, Tensor]) -> str:
        """Why the tensors of a checkpoint are not this trainer's, in words, where their shapes
        alone would not tell; else ""."""
        return ""

    @abstractmethod
    def class_features(self, images: Tensor | None = None) -> Tensor:
        """t [C, D]; for a method whose text depends on the image, those of `images` [B, C, D]."""

    def image_features(self, images: Tensor) -> Tensor:
        """f [B, D] of images [B, 3, H, W], or of what frozen CLIP's image encoder made of them
        [B, D]."""
        return self.from_frozen(images if images.dim() == 2 else self.clip.image_output(images))

    def from_frozen(self, output: Tensor) -> Tensor:
        """f [B, D] of what frozen CLIP's image encoder gives [B, D], where `image_features` is not
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
        stand beside every number made with it; "" for nothing. Also of a test, for a checkpoint
        that does not say."""
        return cls.also_seen

    def start_epoch(self, epoch: int) -> None:
        """Called before the steps of epoch 0, 1, ...: what is random in a step depends on the
        run's seed and this alone, so that a resumed run draws the same. Of a method that counts in
        steps, the parts of epochs after which a state is kept are counted instead."""

    @property
    def steps(self) -> int | None:
        """How many steps a training has, of a method that counts in steps: its last epoch may end
        in its middle, and the last batch of an epoch is kept where it is incomplete. None: a
        training has OPTIM.MAX_EPOCH epochs."""
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
        """How many times the learning rate a learned tensor has, but in the warm-up."""
        return 1.0

    @property
    def clip_norm(self) -> float:
        """What norm the gradients of all learned tensors together are cut to; 0: they are not."""
        return 0.0

    def change_gradients(self) -> None:
        """Called in every step when the gradients of all processes together are there, before the
        optimiser takes them; they may be scaled. For a method that steps otherwise than down its
        loss."""

    def end_epoch(self, epoch: int) -> None:
        """Called after the steps of epoch 0, 1, ..., before its tensors are saved: for what changes
        without a gradient."""

    def training_state(self) -> dict[str, Tensor]:
        """Tensors besides the learned ones that a training needs in order to go on where it was
        interrupted, by name."""
        return {}

    def resume_training(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `training_state` gave, of the same names and shapes."""

    def epoch_weights(self, epochs: int) -> Tensor | None:
        """Weights [E] of the epochs' tensors in the final ones; None: the last epoch's."""
        return None

    def plain_values(self) -> dict[str, object]:
        """Texts, numbers, and lists and dicts of them, that belong to the learned tensors."""
        return {}

    def recall(self, trained: Sequence[str], plain: Mapping[str, object]) -> None:
        """Take what a checkpoint says besides its tensors. Raises NerpError where it is not what
        belongs to them.

        Args: trained: the classes trained on, () where it does not say. plain: as `plain_values`
        gave them, those that are there.
        """

    @property
    def about_classes(self) -> str:
        """What the log should know of how the tested classes are predicted, or ""."""
        return ""

    def account(self, untrained: Callable[[], Collection[str]]) -> dict[str, object]:
        """What the record of a training run holds besides.

        Args: untrained: names the dataset's classes that are not trained on, which a test may be
            of.
        """
        return {}

    @property
    def substitute(self) -> str:
        """What training uses in place of files that a method has and was not given, in words."""
        return ""

    @property
    def test_substitute(self) -> str:
        """The same of a test."""
        return ""
