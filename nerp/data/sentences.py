"""Sentence files: what a language model wrote about each class, for methods that learn from it.

There is one JSON object per dataset, class name -> list of sentences. CoPrompt's release has such
files under its own names (`gpt_file/dtd_prompt.json`). A folder may hold those, or
`<Dataset>.json`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeGuard

from nerp.base.errors import NerpError
from nerp.base.printable import brief
from nerp.clip.templates import ENSEMBLE_60
from nerp.data.benchmark import comparable
from nerp.files.digest import content_digest
from nerp.files.json_file import read_json

# What a run, its record and the tables say of training without a sentence file.
SUBSTITUTE = "60 templates filled with the class name stand in for sentences; no file was given"

# What the released files call a dataset.
_RELEASED = {
    "Caltech101": "caltech",
    "DescribableTextures": "dtd",
    "EuroSAT": "eurosat",
    "FGVCAircraft": "fgvc",
    "Food101": "food101",
    "ImageNet": "imagenet",
    "ImageNetA": "imagenet_a",
    "ImageNetR": "imagenet_r",
    "ImageNetSketch": "imagenet_sketch",
    "ImageNetV2": "imagenetv2",
    "OxfordFlowers": "oxford_flowers",
    "OxfordPets": "oxford_pets",
    "StanfordCars": "stanford_cars",
    "SUN397": "sun397",
    "UCF101": "ucf101",
}


def read_sentences(
    path: str | Path, classnames: Sequence[str], what: str, dataset: str = ""
) -> list[list[str]]:
    """The sentences of each class, in the order of `classnames`; every class has some.

    Args:
        path: a file, or a folder with `<dataset>.json` or the released file of that dataset.
        classnames: a name is looked for as it is, then without case, underscores as spaces.
        what: the key that names the path, for messages.
        dataset: the registry name (EuroSAT), needed where `path` is a folder.

    Raises NerpError for a file that is missing or not such an object, or lacks a class.
    """
    file = _file(path, what, dataset)
    content = read_named(file, what)
    loosely = {comparable(name): sentences for name, sentences in content.items()}
    found = []
    for name in classnames:
        sentences = content.get(name, loosely.get(comparable(name)))
        if sentences is None:
            raise NerpError(f"{what}: {file} has no sentences for the class {name!r}")
        if not _are_sentences(sentences):
            raise NerpError(f"{what}: {file}: the class {name!r} has {brief(sentences)}; it takes "
                            "a list of sentences, at least one")
        found.append(sentences)
    return found


def read_named(file: Path, what: str) -> dict[str, object]:
    """The JSON object in the file that the key `what` names. Raises NerpError if it is none."""
    try:
        return read_json(file)
    except NerpError as error:
        raise NerpError(f"{what}: {error}") from None


def substitute_sentences(classnames: Sequence[str]) -> list[list[str]]:
    """The substitute if no file is given: for each class its name in 60 general templates
    (`ENSEMBLE_60`). It needs no labels and no download. It is not what is published for a method
    that reads sentences."""
    return [[template.format(name) for template in ENSEMBLE_60] for name in classnames]


def sentence_file(path: str | Path, dataset: str) -> Path | None:
    """The file that is read for a dataset: `path`, or the one in the folder `path`; None if there
    is none."""
    path = Path(path).expanduser()
    files = [path / name for name in _names(dataset)] if path.is_dir() else [path]
    return next(filter(Path.is_file, files), None)


def input_digest(path: str | Path, datasets: Iterable[str]) -> str:
    """The digest of the file that a key names; for a folder of sentence files, of those for
    `datasets`, because only these are read. Raises NerpError if a file cannot be read."""
    if not Path(path).expanduser().is_dir():
        return content_digest(path)
    files = [sentence_file(path, dataset) for dataset in dict.fromkeys(datasets)]
    return " ".join(map(content_digest, filter(None, files)))


def _file(path: str | Path, what: str, dataset: str) -> Path:
    file = sentence_file(path, dataset)
    if file is None:
        in_folder = Path(path).expanduser().is_dir()
        raise NerpError(f"{what}: the folder {path} has no {' or '.join(_names(dataset))}"
                        if in_folder else f"{what}: no file or folder {path}")
    return file


def _names(dataset: str) -> list[str]:
    """The names that a folder may use for the file of a dataset."""
    released = _RELEASED.get(dataset)
    return [f"{dataset}.json", *([f"{released}_prompt.json"] if released else [])]


def _are_sentences(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and len(value) > 0 and all(
        isinstance(sentence, str) and sentence.strip() for sentence in value
    )
