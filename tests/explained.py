"""Folders of corrected runs made by hand, and the page of one taken apart."""

from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import torch

from nerp.base.log import RunLog
from nerp.base.registry import RULES
from nerp.correction.looked_at import NOTHING, TRAINING_IMAGES
from nerp.correction.pairs import Pairs
from nerp.correction.references import Prior
from nerp.correction.wrapper import NeRP
from nerp.data.benchmark import Item
from nerp.engine.correct import correction_record
from nerp.engine.evaluate import result_record
from nerp.engine.record import recording, save_predictions
from nerp.settings.resolve import Request, resolve

NAMES = ["<script>alert(1)</script>", "salt & pepper", "\"double\" 'single'", "plain", "empty"]
TEXT_PRIOR = [3.0, 1.0, 0.5, 0.0, -1.0]
IMAGE_PRIOR = [0.5, 1.0, -0.5, 0.0, 0.0]
PAIRS = [(0, 1), (0, 2), (1, 3), (2, 3)]
OPTIONS = ["NERP.TAU", "0.5", "NERP.THRES", "1.5", "NERP.FLIP_BY_ENTROPY", "True",
           "NERP.ENTROPY_THRES", "1.3"]
VOID = {"meta", "img", "br", "wbr"}


class Page(HTMLParser):
    """A page taken apart: `tags` (name, attributes), `text`, `tables` {caption: rows of cells}."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.tables, self.rows = [], [], {}, []
        self.words, self.cell, self.caption = [], None, None
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], None
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th", "caption"):
            self.cell = []

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"
        if tag in ("td", "th", "caption"):
            text = " ".join("".join(self.cell).split())
            if tag == "caption":
                self.caption = text
            else:
                self.rows[-1].append(text)
            self.cell = None
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        if self.open and self.open[-1] in ("style", "script"):
            return
        self.words.append(data)
        if self.cell is not None:
            # What a cell's small print says is set apart from its number.
            self.cell.append(f" {data}" if self.open[-1] == "small" else data)

    def table(self, caption):
        """The rows below the head of the table whose caption starts so."""
        (rows,) = (rows for key, rows in self.tables.items() if key and key.startswith(caption))
        return rows[1:]


def make_run(directory, arrays, *, root="data", looked_at="nothing", options=OPTIONS):
    """A NeRP test's folder, written as `nerp test --save-logits` writes it."""
    resolved = resolve(Request(
        trainer="MMRL_NeRP", dataset="eurosat", root=str(root), seed=3,
        output_dir=str(directory), opts=["DATASET.SUBSAMPLE_CLASSES", "new", *options],
    ))
    cfg = resolved.cfg
    logits, text, image = (torch.as_tensor(arrays[n], dtype=torch.float32)
                           for n in ("logits", "text", "image"))
    pairs = Pairs(torch.tensor(arrays["pairs"]), cfg.NERP.PAIRS, looked_at, "")
    priors = {"text": Prior(text, NOTHING, 0.1), "image": Prior(image, TRAINING_IMAGES, 0.2)}
    rule = RULES[cfg.NERP.RULE].from_config(cfg.NERP, {n: p.strength for n, p in priors.items()})
    nerp = NeRP(rule, priors, pairs)
    correction = nerp.correct(logits)
    labels, names = np.array(arrays["labels"]), arrays["names"]
    items = [Item(path, label, names[label])
             for path, label in zip(arrays["paths"], labels.tolist(), strict=True)]
    tested = SimpleNamespace(cfg=cfg, labels=labels, logits=logits, items=items,
                             bench=SimpleNamespace(classnames=names), directory=directory,
                             checkpoint="model.pth.tar-5", base=None)
    with RunLog() as log, recording(log, resolved) as record:
        record.update(result_record(labels, logits, names, correction), kind="test", epoch=5)
        record["nerp"] = correction_record(nerp, correction, tested)
        record["identity"] = {"config": "00"}
        save_predictions(tested, nerp, correction, record["identity"])
    return directory


def few_classes(images=400):
    """Five classes, the last without an image, and logits that follow the priors too much."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, images)
    logits = rng.normal(0, 1.3, (images, 5)) + 0.6 * np.array(TEXT_PRIOR)
    logits[np.arange(images), labels] += 2.5
    paths = [f"a&b/<b>{i}</b>.png" if i % 2 else f"plain/{i}.png" for i in range(images)]
    return {"names": NAMES, "labels": labels, "logits": logits, "text": TEXT_PRIOR,
            "image": IMAGE_PRIOR, "pairs": PAIRS, "paths": paths}
