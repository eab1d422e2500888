"""BERT's tokenizer, made from the vocabulary file beside a backbone's weights."""

import importlib.util
from pathlib import Path

from nerp.base.errors import NerpError
from nerp.clip.tokenizer import Tokenizer, open_clips
from nerp.files.opening import MIB, read_text

VOCABULARY_FILE = "vocab.txt"
CONTEXT_LENGTH = 256  # tokens that BiomedCLIP was trained with
_LARGEST = 16 * MIB
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def require_transformers(what: str) -> None:
    """Raise NerpError if Hugging Face's packages, which `what` needs, are not installed."""
    for package in ("transformers", "tokenizers"):
        if importlib.util.find_spec(package) is None:
            raise NerpError(f"{what} needs the package {package}: pip install 'nerp[biomedclip]'")


def vocabulary_beside(weights: Path) -> Path | None:
    """The vocabulary file beside a backbone's weights; None if there is none."""
    file = weights.parent / VOCABULARY_FILE
    return file if file.is_file() else None


def read_tokenizer(weights: Path, size: int) -> Tokenizer:
    """The tokenizer of a BERT whose embedding table has `size` rows.

    Args: weights: the model's file; `vocab.txt` beside it has one token per line, in the order of
        their ids.

    Raises NerpError if that file is missing or belongs to another model.
    """
    file = vocabulary_beside(weights)
    if file is None:
        raise NerpError(f"{weights}: its text encoder is a BERT, which reads no text without its "
                        f"vocabulary: put {VOCABULARY_FILE} of the same repository beside it")
    lines = read_text(file, _LARGEST).removesuffix("\n").split("\n")
    tokens = [line.rstrip("\r") for line in lines]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    lacking = [token for token in _SPECIAL if token not in vocabulary]
    if lacking:
        raise NerpError(f"{file}: not a vocabulary of BERT: it lacks {', '.join(lacking)}")
    if len(vocabulary) != len(tokens):
        raise NerpError(f"{file}: not a vocabulary: a token stands in it twice")
    if len(tokens) != size:
        raise NerpError(f"{file}: {len(tokens):,} tokens; {weights.name} has embeddings of "
                        f"{size:,}")
    return make_tokenizer(vocabulary)


def make_tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    """The tokenizer with the vocabulary token -> id. It cleans texts as open_clip does before
    Hugging Face's tokenizer, and converts them to lower case."""
    from tokenizers import BertWordPieceTokenizer

    pieces = BertWordPieceTokenizer(vocab=vocabulary, lowercase=True)
    clean = open_clips().get_clean_fn("whitespace")

    def encode(text: str) -> list[int]:
        return list(pieces.encode(clean(text), add_special_tokens=False).ids)

    return Tokenizer(encode, vocabulary["[CLS]"], vocabulary["[SEP]"], CONTEXT_LENGTH, "BERT")
