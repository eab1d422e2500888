"""`Method`: the settings, learned tensors and features that each method defines."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from torch import Tensor
from yacs.config import CfgNode

from nerp.clip.model import Clip, normalise
from nerp.trainers.texts import Classes

SWITCHED_ON = "a photo of a"  # what CTX_INIT True means in published files
# The groups of `nerp methods`, in its order. A user's own method may name another group.
GROUPS = ("zero-shot", "context", "deep", "adapters", "training-free")


class Method(ABC):
    """The part that differs between methods. Its defaults hold for most methods. `Trainer` derives
    from it and defines the loss.

    All features that are returned are float32 and normalised. Callers wrap both training and
    testing in `clip.autocast()`.

    Class attributes:
        node: the name of the method's node below TRAINER in a configuration.
        defaults: the content of that node: a `Key` that states the range of a number, or a plain
            text or truth value.
        published: other nodes, below TRAINER or at the top level, in which published files keep
            these keys. Upper and lower case are equal.
        folder: the checkpoint's folder, as in the published code; "" if nothing is learned.
        paper: the publication, for `nerp methods`.
        group: the heading of the method in `nerp methods`; one of GROUPS for a shipped method.
        signature: patterns; a checkpoint can be this method's if each matches a tensor's name.
        marks: further patterns, for other tensors of a published file. They are needed if a file
            does not name its method and another method's learned tensors have the same names.
        shape_settings: the settings that a checkpoint stores, because its tensors are useless
            without them.
        fixed: patterns for names of tensors in a checkpoint that are not trained.
        edits: the encoders ("text", "image") whose layers the method changes. Only CLIP's own
            transformers have such layers.
        builds_on: setting -> method. The setting KEY names a checkpoint of that method, from which
            training starts; the setting KEY_EPOCH names its epoch.
        by_data: names of tensors whose first dimension depends on the training images or classes,
            not on the tested classes.
        plain: names of the plain values in a checkpoint (`plain_values`).
        on_features: whether the method is built or trained on frozen image features, through the
            hooks of `OnFeatures`.
        text_by_image: whether a class has a different feature for each image.
        also_seen: in words, the data that training sees besides the labelled images of its classes
            (`seen_besides`).
        reads_labels: whether training reads labels. If it does not, a known class name alone does
            not make a class a trained one.
        learns_text: whether training changes the feature of any class, trained on or not.
        own_classes: whether a model can predict only the classes that it was trained on.
        learns_names: whether training on base classes uses the novel classes' names
            (`Classes.everyone`).
        views: how many augmented views of an image `loss` takes, as successive arguments.
        loss_by_features: set by a class with its own `loss`, if that loss uses images only through
            `image_features` and `logits`.
        all_classes: whether training uses the images of all classes, whatever classes a run is
            tested on.
        independent: whether the logits of a class do not depend on the other tested classes.
        two_heads: whether trained classes (`Classes.seen`) are predicted differently from others.
        one_entropy: set by a class whose `loss`, its own or an inherited one, is one
            `cross_entropy` plus other terms. Its logits are s f tᵀ, with f = `image_of` and
            t = `text_of` of the encoders' outputs (`has_one_entropy`).
        keeps_last: whether the incomplete last batch of an epoch is kept. A method that counts in
            steps always keeps it.
        optional: names of tensors that a file may lack. They are then initialised as in a fresh
            model.
        settled: Dassl's keys in published files -> their values, as text, that need no action
            because this code does the same anyway.

    Attributes:
        cfg: the whole configuration. settings: the method's own node of it.
        clip: the backbone. classes: the classes to predict.
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
        """{setting: value} if this key and value of a published file mean another setting or value
        here. {"": None} if the key needs no action, {} if it has the same meaning here.

        By default CTX_INIT True stands for the usual words and False for a random start."""
        if key == "CTX_INIT" and str(value) in ("True", "False"):
            return {key: SWITCHED_ON if str(value) == "True" else ""}
        return {}

    @classmethod
    def disregards(cls, name: str, value: object) -> str | None:
        """The message about a key of published files that is ignored because this code does not do
        what it asks; "" for no message. None for any other key. name: the key's full name."""
        return None

    @classmethod
    def unfit(
        cls, cfg: CfgNode, names: Sequence[str], source: str, trained: Sequence[str]
    ) -> str:
        """The reason why training on the classes `names` cannot start from a checkpoint trained on
        the classes `trained` of the dataset `source`; "" if it can. `source` is "" and `trained`
        is () if the checkpoint does not name them."""
        return ""

    @classmethod
    def lacks(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a test with these tensors also needs the checkpoint that they build on."""
        return False

    @classmethod
    def taken_over(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that a checkpoint copies from the checkpoint that it builds on, under the
        names that they have in the copy. tensors: those of the checkpoint that it builds on."""
        return {}

    @classmethod
    def fits(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether tensors with the signature's names have this method's shapes."""
        return True

    @classmethod
    def refusal(cls, tensors: Mapping[str, Tensor], clip: Clip) -> str:
        """The reason, in words, why tensors with the signature's names do not fit this backbone; ""
        if they fit, or if the check of shapes finds the misfit."""
        return ""

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        """The settings that follow from a checkpoint's tensors."""
        return {}

    @classmethod
    def unpack(
        cls, content: Mapping[str, object]
    ) -> tuple[dict[str, Tensor], dict[str, object]] | None:
        """The tensors and shape settings of a published file whose layout is the method's own,
        without a state_dict. None for any other file. A damaged file may raise any error."""
        return None

    @classmethod
    def published_file(cls, cfg: CfgNode) -> str:
        """The path, below the given folder, at which the published code writes such a file
        (`unpack`) for this run; "" if it writes none."""
        return ""

    @classmethod
    def carried(cls, task: str) -> tuple[str, ...]:
        """The settings that a test under the protocol `task` takes from the checkpoint, if they are
        stored there; by default the shape settings."""
        return cls.shape_settings

    def check(self) -> None:
        """Raise NerpError for settings that do not fit the backbone."""

    def initial(self) -> dict[str, Tensor]:
        """Freshly initialised learned tensors, under their names in published checkpoints."""
        return {}

    def prepare(self) -> None:
        """Compute the values that depend on the classes but not on the learned tensors."""

    def misfit(self, tensors: Mapping[str, Tensor]) -> str:
        """The reason, in words, why the tensors of a checkpoint do not fit this trainer although
        their shapes do; "" if they fit."""
        return ""

    @abstractmethod
    def class_features(self, images: Tensor | None = None) -> Tensor:
        """Class features t [C, D]; if `text_by_image`, those of `images`, [B, C, D]."""

    def image_features(self, images: Tensor) -> Tensor:
        """Image features f [B, D] from images [B, 3, H, W], or from the frozen image encoder's
        outputs [B, D]."""
        return self.from_frozen(images if images.dim() == 2 else self.clip.image_output(images))

    def from_frozen(self, output: Tensor) -> Tensor:
        """Image features f [B, D] from the frozen image encoder's outputs [B, D]. It is not used by
        a method that defines `image_features`."""
        return self.image_of(output)

    def image_of(self, v: Tensor) -> Tensor:
        """The image feature f from the output v [..., D] of the image encoder and of any adapter
        behind it."""
        return normalise(v)

    def text_of(self, u: Tensor) -> Tensor:
        """The class feature t from the output u [..., D] of the text encoder and of any adapter
        behind it."""
        return normalise(u)

    def frozen_prompts(self) -> list[list[str]]:
        """For each class, the texts whose frozen features are averaged to t*."""
        return [[prompt] for prompt in self.classes.prompts]

    @abstractmethod
    def tuned_neutral(self) -> Tensor:
        """The tuned text encoder's feature of the neutral prompt: [D], or [C, D] if each class has
        its own."""

    def prepare_training(self) -> None:
        """Read and compute what only training needs. It is called before a run writes any file.
        Raises NerpError for files that cannot be used."""

    @classmethod
    def seen_besides(cls, cfg: CfgNode) -> str:
        """In words, the data that training with this configuration sees besides the labelled
        images; "" for none. Every result of the model is shown with this text. A test uses it too,
        if the checkpoint does not store such a text."""
        return cls.also_seen

    def start_epoch(self, epoch: int) -> None:
        """Called before the steps of epoch 0, 1, .... Random draws in a step may depend only on the
        run's seed and this number, so that a resumed run draws the same. For a method that counts
        in steps, `epoch` numbers the intervals between saved states."""

    @property
    def steps(self) -> int | None:
        """The number of training steps, for a method that counts in steps. Its last epoch may end
        early, and an incomplete last batch is kept. None: training has OPTIM.MAX_EPOCH epochs."""
        return None

    def step_rate(self, step: int, epoch_steps: int) -> float | None:
        """The learning rate of step 0, 1, ... of the whole training, for a method with its own
        schedule. None: the schedule of the node OPTIM."""
        return None

    def surveys(self, epoch: int) -> bool:
        """Whether `survey` is called with all training images after the steps of this epoch, before
        `end_epoch`."""
        return False

    def survey(self, outputs: Tensor) -> None:
        """Use all training images. outputs: the frozen image encoder's outputs [N, D], not
        normalised, of the images after the test transform."""

    def saved(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The learned tensors that a checkpoint stores."""
        return tensors

    def trained_score(self) -> Callable[[Tensor], Tensor] | None:
        """A function from image features f [B, D] to scores [B]: how likely each image shows a
        trained class, by the method's own detector. None if the method has no detector. Only a
        method with `frozen_images` can have one."""
        return None

    def rate_factor(self, name: str) -> float:
        """The factor of a learned tensor's learning rate, except during warm-up."""
        return 1.0

    @property
    def clip_norm(self) -> float:
        """The norm to which the joint gradient of all learned tensors is clipped; 0: no
        clipping."""
        return 0.0

    def change_gradients(self) -> None:
        """Change the gradients before the optimiser uses them. It is called in every step, after
        the gradients of all processes are combined; they may be scaled. For a method whose step
        does not follow the gradient of its loss."""

    def end_epoch(self, epoch: int) -> None:
        """Change tensors without a gradient. It is called after the steps of epoch 0, 1, ...,
        before the epoch's tensors are saved."""

    def training_state(self) -> dict[str, Tensor]:
        """The tensors, by name, that a resumed training needs besides the learned ones."""
        return {}

    def resume_training(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `training_state` returned. Names and shapes are the same."""

    def epoch_weights(self, epochs: int) -> Tensor | None:
        """Weights [E] with which the tensors of the E epochs are averaged to the final ones. None:
        the last epoch's tensors are the final ones."""
        return None

    def plain_values(self) -> dict[str, object]:
        """Plain values that a checkpoint stores beside the learned tensors: texts, numbers, and
        lists and dicts of them."""
        return {}

    def recall(self, trained: Sequence[str], plain: Mapping[str, object]) -> None:
        """Restore what a checkpoint stores besides its tensors. Raises NerpError if it does not
        fit the tensors.

        Args: trained: the trained classes, () if the checkpoint does not name them. plain: the
        stored `plain_values`.
        """

    @property
    def about_classes(self) -> str:
        """A line for the log about how the tested classes are predicted, or ""."""
        return ""

    def account(self, untrained: Callable[[], Collection[str]]) -> dict[str, object]:
        """Further fields for the record of a training run.

        Args: untrained: returns the names of the dataset's classes that are not trained on, which
        a test may use.
        """
        return {}

    @property
    def substitute(self) -> str:
        """In words, what training uses in place of files that it needs and that were not given."""
        return ""

    @property
    def test_substitute(self) -> str:
        """In words, what a test uses in place of files that it needs and that were not given."""
        return ""
