"""What keeps the pages readable: replaced words stay replaced, and what a page names exists."""

import re
from pathlib import Path

import pytest

from nerp.cli import COMMANDS

REPO = Path(__file__).parents[2]
PAGES = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").rglob("*.md"))]
COUNTED = ("images?|sentences|templates?|prompts?|tokens|rows?|columns?|lines?|hours|bytes|GB|MB|"
           "KB|one|pages?|views?|once")
UNITS = "class|file|step|dataset|seed|method|image|epoch|batch|layer|run|second|model"
# A pattern that prose does not match, and what to write instead.
REPLACED = {
    r"(?<!water )\b[Tt]owers?\b": "image encoder, text encoder",
    rf"\b(?:{COUNTED}) an? (?:{UNITS})s?\b(?! of\b)": "per class, per file",
    r"\bare left aside\b|\bis left aside\b": "ignored",
}
WORDS = 900  # of README.md, as `wc -w` counts them


def prose(page):
    """A page's text without blocks and spans of code and the targets of links, each paragraph and
    row of a table one line."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)]*\)|\S+\.py\b", "]", text)
    text = re.sub(r"`[^`]*`", "`", text)
    return re.sub(r"(?<!\n)\n(?![\n|#-])", " ", re.sub(r"\n[ >]+", "\n", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_replaced_words_stay_replaced(page):
    found = [f"{line[max(0, there.start() - 30):there.end() + 10]!r}; write: {instead}"
             for line in prose(page).splitlines() for pattern, instead in REPLACED.items()
             for there in re.finditer(pattern, line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_paths_and_commands_of_a_page_exist(page):
    text = page.read_text()
    # Without the column of what is typed in other repositories.
    ours = re.sub(r"^`(?:bash|python) [^|]*\|", "", text, flags=re.MULTILINE)
    for name in re.findall(r"\b(?:tools|scripts|tests)/[\w/.-]+\.(?:py|sh)\b", ours):
        assert (REPO / name).exists(), name
    code = "\n".join(re.findall(r"^```.*?^```$|`[^`]+`", text, re.MULTILINE | re.DOTALL))
    for name in re.findall(r"(?:^|`|\$ )nerp ([a-z][a-z-]*)", code, re.MULTILINE):
        assert name in {*COMMANDS, "help"}, f"nerp {name}"


def test_readme_and_glossary_stay_short():
    assert len((REPO / "README.md").read_text().split()) <= WORDS
    assert len((REPO / "docs" / "glossary.md").read_text().splitlines()) <= 25
