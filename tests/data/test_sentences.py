"""Sentence files: found, matched to classes, and refused in one line."""

import json

import pytest

from nerp.base.errors import NerpError
from nerp.data.sentences import read_sentences, substitute_sentences

NAMES = ("Annual Crop Land", "Forest")


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_names_are_matched_as_they_are_then_loosely(tmp_path):
    file = write(tmp_path / "a.json", {
        "forest": ["trees."], "Annual_crop land": ["corn.", "wheat."], "River": ["water."],
    })
    assert read_sentences(file, NAMES, "TEXTS") == [["corn.", "wheat."], ["trees."]]
    write(file, {"forest": ["small."], "Forest": ["great."]})
    assert read_sentences(file, ["Forest"], "TEXTS") == [["great."]]


@pytest.mark.parametrize("name", ["DescribableTextures.json", "dtd_prompt.json"])
def test_a_folder_holds_a_file_a_dataset(name, tmp_path):
    write(tmp_path / name, {"dotted": ["dots."]})
    assert read_sentences(tmp_path, ["dotted"], "TEXTS", "DescribableTextures") == [["dots."]]
    with pytest.raises(NerpError, match=r"^TEXTS: the folder .* has no EuroSAT.json or "
                                        r"eurosat_prompt.json$"):
        read_sentences(tmp_path, NAMES, "TEXTS", "EuroSAT")


@pytest.mark.parametrize(("content", "says"), [
    ("no JSON", "not a readable JSON file"),
    ("[" * 100_000, "not a readable JSON file"),
    ([["Forest"]], "not an object"),
    ({"Forest": ["trees."]}, "has no sentences for the class 'Annual Crop Land'"),
    ({"Annual Crop Land": "corn.", "Forest": ["trees."]}, "'Annual Crop Land' has 'corn.'"),
    ({"Annual Crop Land": [], "Forest": ["trees."]}, r"'Annual Crop Land' has \[\]"),
    ({"Annual Crop Land": ["corn.", 1], "Forest": ["trees."]}, r"has \['corn.', 1\]; it takes"),
    ({"Annual Crop Land": [" "], "Forest": ["trees."]}, "a list of sentences, at least one"),
])
def test_what_is_wrong_is_said_in_one_line(content, says, tmp_path):
    file = write(tmp_path / "a.json", content)
    with pytest.raises(NerpError, match=says) as error:
        read_sentences(file, NAMES, "TEXTS")
    assert "\n" not in str(error.value) and str(error.value).startswith(f"TEXTS: {file}")


def test_no_such_file(tmp_path):
    with pytest.raises(NerpError, match="^TEXTS: no file or folder .*none.json$"):
        read_sentences(tmp_path / "none.json", NAMES, "TEXTS")


def test_the_substitute_fills_templates_with_the_name():
    for name, sentences in zip(NAMES, substitute_sentences(NAMES), strict=True):
        assert len(set(sentences)) == 60 and all(name in sentence for sentence in sentences)
