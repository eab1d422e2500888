"""From a request to settings: `resolve` is called once per run, and everything after uses its
result.

Later layers win: defaults, dataset card, method configuration (then its PER_SHOTS and its
PER_DATASET row), command line. Values that are still open come from the published tables (NeRP's
settings, SAR's weight) and from what the backbone was trained with. Keys have the names of CoOp's
family of repositories if those repositories have the key.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from yacs.config import CfgNode as CN

from nerp.base.beside import check_folder
from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.registry import TRAINERS
from nerp.files.yaml_file import load_yaml
from nerp.settings.backbones import BACKBONE_KEY, DEFAULT_BACKBONE, backbone_in
from nerp.settings.cards import (
    check_card,
    find_card,
    find_card_file,
    find_method_file,
    read_card,
    read_method,
    shipped_cards,
)
from nerp.settings.catalogue import shipped_config, trained_file
from nerp.settings.choices import settle_rule, settle_weight
from nerp.settings.defaults import KEYS, key
from nerp.settings.options import options_of
from nerp.settings.protocols import (
    CONFIG_FILE,
    NERP_SUFFIX,
    SAR_SUFFIX,
    plain_name,
    protocol,
    run_dir,
    trained_name,
)
from nerp.settings.tree import (
    AUTOMATIC,
    BACKBONE,
    CARD,
    CHECKPOINT,
    COMMAND_LINE,
    DEFAULT,
    METHOD,
    Draft,
    Origin,
    get,
    keys,
    put,
)

_LONGEST_VALUE = 60  # characters, in a listing
OUTPUT = "output"  # the folder of all runs without an --output-dir


@dataclass
class Request:
    """What a command line asks for.

    Attributes:
        model_dir, load_epoch: a run directory, and its epoch; None: the best or the newest.
        use_cache: whether logits that an earlier test of this checkpoint kept may be used.
        opts: KEY VALUE pairs. The rest is as in `nerp test --help`; "" and None: not given.
    """

    trainer: str
    dataset: str = ""
    dataset_config_file: str = ""
    config_file: str = ""
    root: str = ""
    seed: int | str | None = None
    output_dir: str = ""
    opts: list[str] = field(default_factory=list)
    model_dir: str = ""
    load_epoch: int | None = None
    use_cache: bool = True


@dataclass(frozen=True)
class Resolved:
    """A resolved request.

    Attributes:
        request: what was asked for. cfg: the frozen configuration.
        card: the dataset card's file. method_file: the method configuration's, None if there is
            none.
        directory: the run directory.
        method: the name of the method that the checkpoint belongs to (`plain_name`).
        origins: key -> where its value comes from. A key that is missing has its default.
    """

    request: Request
    cfg: CN
    card: Path
    method_file: Path | None
    directory: Path
    method: str
    origins: Mapping[str, Origin]

    def origin(self, name: str) -> Origin:
        """Where a key's value comes from."""
        return self.origins.get(name, Origin(DEFAULT))

    def listing(self, everything: bool = False) -> Iterator[tuple[str, object, Origin]]:
        """(key, value, where it comes from) for the keys that are not at their defaults; with
        `everything`, for all keys that this run can read. Keys of other methods are left out."""
        node = TRAINERS[self.method].node
        others = {f"TRAINER.{TRAINERS[name].node}" for name in TRAINERS.names()}
        others -= {f"TRAINER.{node}"}
        for name in keys(self.cfg):
            origin = self.origin(name)
            if name.rpartition(".")[0] not in others and (everything or origin.kind != DEFAULT):
                yield name, get(self.cfg, name), origin

    def said(self, everything: bool = False) -> str:
        """`listing` as text: per key a line with its value, shortened if it is long, and where the
        value comes from."""
        return "\n".join(f"{name}: {_short(value)}  ({origin})"
                         for name, value, origin in self.listing(everything))

    def with_checkpoint(self, values: Mapping[str, object], path: Path) -> "Resolved":
        """A copy with the values that a checkpoint gives for some keys. Raises NerpError, naming
        the file, for a value that its key does not take."""
        cfg, origin = self.cfg.clone(), Origin(CHECKPOINT, str(path))
        cfg.defrost()
        for name, value in values.items():
            put(cfg, name, value, path)
        cfg.freeze()
        origins = {**self.origins, **dict.fromkeys(values, origin)}
        return replace(self, cfg=cfg, origins=origins)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} ..."


def resolve(request: Request, phase: str = "", anew: bool = False) -> Resolved:
    """The settings that `request` asks for, checked and complete.

    Args:
        phase: "train" or "test", for the run's folder below output/ if none is given; "" for a
            command that records no run and uses the current folder.
        anew: whether the run starts from the beginning, with a new seed if SEED is -1.

    Raises NerpError for an unknown trainer, dataset, file or key, or a value that a key does not
    take.
    """
    trainer = TRAINERS.canonical(trained_name(request.trainer))
    corrected = request.trainer.endswith(NERP_SUFFIX)
    options = options_of(request.opts)
    card = _card(request)
    backbone, of_model = _trained_backbone(request, options)
    method_file = _method_file(request, trainer, backbone | options, card)

    draft = Draft(TRAINERS[plain_name(trainer)])
    draft.merge(read_card(card), Origin(CARD, str(card)))
    check_card(draft.cfg, str(card))
    if method_file:
        shots = options.get("DATASET.NUM_SHOTS", draft.cfg.DATASET.NUM_SHOTS)
        for layer, entry in read_method(method_file, draft.cfg.DATASET.NAME, shots):
            draft.merge(layer, Origin(METHOD, str(method_file), entry))
    for name, value in backbone.items():
        if get(draft.cfg, name) != value:
            draft.put(name, value, of_model)
            say(f"{name} {value}, as the model was trained ({of_model.file})")
    _merge_command_line(draft, request, options)
    draft.put("TRAINER.NAME", trainer + NERP_SUFFIX * corrected, Origin(COMMAND_LINE))
    if corrected:
        settle_rule(draft, trainer)
    if trainer.endswith(SAR_SUFFIX):
        settle_weight(draft, trainer)
    _follow_backbone(draft)
    _on_all_classes(draft, phase)
    _check(draft.cfg)
    if draft.cfg.SEED < 0:
        _draw_seed(draft, anew)
    draft.cfg.freeze()
    directory = _directory(draft.cfg, card, method_file, phase)
    return Resolved(request, draft.cfg, card, method_file, directory, plain_name(trainer),
                    draft.origins)


def _card(request: Request) -> Path:
    """The dataset card that a request asks for. Raises NerpError if it asks for none."""
    if request.dataset_config_file:
        return find_card_file(request.dataset_config_file)
    if request.dataset:
        return find_card(request.dataset)
    raise NerpError("which dataset? --dataset NAME, or the FILE of a card of your own; there are: "
                    + ", ".join(shipped_cards()))


def _trained_backbone(
    request: Request, options: Mapping[str, str]
) -> tuple[dict[str, str], Origin]:
    """{key: the backbone that the tested model was trained on}, and the run that says so; {} if the
    command line or a named configuration gives the backbone, or the run does not record it."""
    asked = request.config_file or BACKBONE_KEY in options
    file = trained_file(request.model_dir) if request.model_dir and not asked else None
    found = backbone_in(file) if file else ""
    return {BACKBONE_KEY: found} if found else {}, Origin(CHECKPOINT, str(file or ""))


def backbone_said_by(
    card: Path, method_file: Path | None, read: Callable[[Path], Mapping[str, object]] = load_yaml
) -> str:
    """The backbone that `resolve` finds if the command line names none and tests no model. No
    method is needed, so torch is not imported.

    Args: read: reads a YAML file. Raises NerpError as that does.
    """
    layers = [read(card)]
    if method_file:
        content, name = read(method_file), _inner(layers[0], "DATASET", "NAME")
        own = _inner(content, "PER_DATASET", str(name))
        layers += [content, own if isinstance(own, Mapping) else {}]
    said = (_inner(layer, *BACKBONE_KEY.split(".")) for layer in reversed(layers))
    return next((str(name) for name in said if name), DEFAULT_BACKBONE)


def _inner(node: object, *names: str) -> object:
    """The value under those names in a nested mapping; None if there is none."""
    for name in names:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _method_file(
    request: Request, trainer: str, options: Mapping[str, str], card: Path
) -> Path | None:
    """The method configuration: the given file, or the file that ships for this run."""
    if request.config_file:
        return find_method_file(request.config_file)
    task, shots = (
        KEYS[name].read(options.get(name, KEYS[name].default), f"command line: {name}")
        for name in ("TASK", "DATASET.NUM_SHOTS")
    )
    assert isinstance(task, str) and isinstance(shots, int)  # the types that these two keys keep
    file = shipped_config(trainer, task, shots, options, card, request.model_dir)
    return find_method_file(file) if file else None


def _merge_command_line(draft: Draft, request: Request, options: Mapping[str, str]) -> None:
    """Apply the flags, then the KEY VALUE pairs."""
    given = {"SEED": request.seed, "OUTPUT_DIR": request.output_dir, "DATASET.ROOT": request.root}
    flags = {name: value for name, value in given.items() if value not in (None, "")}
    for name, value in {**flags, **options}.items():
        draft.put(name, value, Origin(COMMAND_LINE))


def _follow_backbone(draft: Draft) -> None:
    """Set the keys of INPUT to what the backbone was trained with, if open_clip knows it."""
    if ":" not in draft.cfg.MODEL.BACKBONE.NAME:
        return
    from nerp.clip.backbones import find_backbone

    backbone = find_backbone(draft.cfg.MODEL.BACKBONE.NAME)
    for name, value in backbone.inputs.items():
        before, old = get(draft.cfg, name), draft.origin(name)
        draft.put(name, value, Origin(BACKBONE))
        if get(draft.cfg, name) != before:
            say(f"{name} {before} gives way to {get(draft.cfg, name)}, which {backbone.name} was "
                f"trained with ({before} is from {old})")


def _on_all_classes(draft: Draft, phase: str) -> None:
    """Set the classes to all if the method learns from the images of all classes."""
    name = "DATASET.SUBSAMPLE_CLASSES"
    if phase == "train" and TRAINERS[draft.cfg.TRAINER.NAME].all_classes:
        before, old = get(draft.cfg, name), draft.origin(name)
        if before != "all":
            draft.put(name, "all", Origin(AUTOMATIC))
            say(f"{name} {before} gives way to all: {draft.cfg.TRAINER.NAME} is trained on the "
                f"images of all classes ({before} is from {old})")


def _check(cfg: CN) -> None:
    """Check keys against each other. `nerp.settings.defaults` checks each key by itself."""
    optim = cfg.OPTIM
    if optim.WARMUP_EPOCH > optim.MAX_EPOCH:
        raise NerpError(f"OPTIM.WARMUP_EPOCH is {optim.WARMUP_EPOCH}; it takes at most the number "
                        f"of epochs, OPTIM.MAX_EPOCH {optim.MAX_EPOCH}")
    if optim.WARMUP_EPOCH > 0 and optim.WARMUP_TYPE != "constant":
        raise NerpError("OPTIM.WARMUP_TYPE: only a constant warm-up is implemented")
    is_open = protocol(cfg.TASK).name == "open_world"
    if cfg.TEST.AS_TRAINED and not is_open:
        raise NerpError("TEST.AS_TRAINED: it is of the open world, TASK OW; elsewhere the protocol "
                        "says which classes were trained on, so leave it out")
    if is_open and cfg.NERP.ON_BASE:
        raise NerpError("NERP.ON_BASE: in the open world base and novel classes are corrected "
                        "together, so the key has no meaning there; leave it out")
    low, high = cfg.INPUT.RRCROP_SCALE
    if low > high:
        raise NerpError(f"INPUT.RRCROP_SCALE is {cfg.INPUT.RRCROP_SCALE}; the smaller share of the "
                        "image comes first")


def _draw_seed(draft: Draft, anew: bool) -> None:
    """Replace SEED -1 by a drawn seed, which is printed and recorded; with that seed the run can be
    repeated.

    A run that was interrupted in the same folder continues with its drawn seed, unless `anew` asks
    for a new start.
    """
    from nerp.base.distributed import agree

    folder = draft.cfg.OUTPUT_DIR
    kept = None if anew or not folder else _kept_seed(Path(folder).expanduser() / CONFIG_FILE)
    drawn = agree(secrets.randbelow(2**31) if kept is None else kept)
    draft.put("SEED", drawn, draft.origin("SEED"))
    how = "drawn for this run" if kept is None else "the one that the run in this folder drew"
    say(f"SEED -1: the seed is {drawn}, {how}; --seed {drawn} repeats it")


def _kept_seed(file: Path) -> int | None:
    try:
        seed = load_yaml(file).get("SEED") if file.is_file() else None
        kept = None if seed is None else key("SEED").read(seed, file)
    except NerpError:
        return None
    return kept if isinstance(kept, int) else None


def _directory(cfg: CN, card: Path, method_file: Path | None, phase: str) -> Path:
    """--output-dir, or the run's place below `output/`."""
    if cfg.OUTPUT_DIR or not phase:
        return Path(cfg.OUTPUT_DIR or ".").expanduser()
    directory = run_dir(
        OUTPUT,
        task=cfg.TASK,
        phase=phase,
        classes=cfg.DATASET.SUBSAMPLE_CLASSES,
        dataset=card.stem,
        shots=cfg.DATASET.NUM_SHOTS,
        trainer=cfg.TRAINER.NAME,
        config=method_file.stem if method_file else "default",
        seed=cfg.SEED,
        backbone=str(get(cfg, BACKBONE_KEY)),
    )
    check_folder(directory, OUTPUT)
    return directory
