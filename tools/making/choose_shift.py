"""Choose the shift's references and strengths on benchmarks that are drawn with other seeds.

    python tools/making/choose_shift.py collect --world 101 --backbone tiny   # once for each
    python tools/making/choose_shift.py report docs/study/choice.md

`collect` draws the benchmarks with that seed, trains every method on their base classes, and keeps
for each model its logits on the novel classes and the prior of every candidate reference. `report`
tries strengths on all collected models of the shipped backbones. The shipped benchmarks are never
used.

For weights in a file (--backbone FILE.safetensors, as pretrain_tiny_clip.py writes them) the page
shows how much a class bias could gain and does gain: a curve over the tail of pre-training.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command `nerp` does

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter
from tabulate import tabulate
from torch import Tensor

from nerp.base.paths import replacing, write_text
from nerp.base.registry import TRAINERS
from nerp.clip.loading import SHIPPED
from nerp.correction.gap import slope_between_halves
from nerp.correction.matching import uniform_bias
from nerp.correction.references import (
    GAP_SHARE,
    GAP_STRENGTH,
    IMAGE_STRENGTH,
    MATCHED_STRENGTH,
)
from nerp.correction.wrapper import find_priors
from nerp.data.decode import open_image
from nerp.data.images import Normalise, eval_transform
from nerp.demo.study import ALL_REFERENCES, METHODS, ceiling
from nerp.demo.world import WORLDS, build
from nerp.engine.correct import gather_material
from nerp.engine.evaluate import encode_images
from nerp.engine.run import run_training
from nerp.engine.tested import Tested
from nerp.settings.cards import find_method_file
from nerp.settings.protocols import NERP_SUFFIX
from nerp.settings.resolve import Request, resolve

NEUTRAL_PROMPTS = (
    "a photo.", "an image.", "a picture of something.", "a photo of a thing.", "photo"
)
STRENGTHS = (0.05, 0.1, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect", help="train, and keep the report's data")
    collecting.add_argument("--world", type=int, required=True, help="the benchmarks' seed")
    collecting.add_argument("--backbone", required=True, help="a shipped one, or a file")
    collecting.add_argument("--methods", nargs="+", default=METHODS)
    collecting.add_argument("--benchmarks", nargs="+", default=list(WORLDS), choices=WORLDS)
    reporting = commands.add_parser("report", help="write the page")
    reporting.add_argument("page", type=Path)
    for command in (collecting, reporting):
        command.add_argument("--folder", type=Path, default=Path("output/choice"))
    args = parser.parse_args()
    if args.command == "collect":
        collect(args)
    else:
        report(args)


# Collecting


def collect(args: argparse.Namespace) -> None:
    """Write one file per model: logits [N, C], labels [N], and every candidate's prior [C]."""
    root = args.folder / f"world{args.world}"
    weights = SHIPPED.get(args.backbone, Path(args.backbone))
    record = weights.with_suffix(".json").read_text()
    write_text(root / Path(args.backbone).stem / "record.json", record)
    for dataset in args.benchmarks:
        build(dataset, root / "data", seed=args.world)
        for method in args.methods:
            kept = root / Path(args.backbone).stem / dataset / f"{method}.npz"
            if kept.is_file():
                continue
            model_dir = ""
            if TRAINERS[method].folder:
                model_dir = str(run_training(_request(root, args, dataset, method, "base")))
            request = _request(root, args, dataset, method + NERP_SUFFIX, "new", model_dir)
            arrays = measure(Tested(resolve(request)))
            with replacing(kept) as partial, open(partial, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # none is called allow_pickle
            print(kept, flush=True)


def _request(
    root: Path, args: argparse.Namespace, dataset: str, trainer: str, classes: str,
    model_dir: str = "",
) -> Request:
    method = trainer.removesuffix(NERP_SUFFIX)
    backbone = "MODEL.BACKBONE.NAME" if args.backbone in SHIPPED else "MODEL.BACKBONE.PATH"
    output = root / "runs" / Path(args.backbone).stem / dataset / trainer / classes
    return Request(
        trainer=trainer, dataset=dataset, root=str(root / "data"), seed=1,
        config_file=str(find_method_file(f"configs/trainers/{method}/tiny.yaml")),
        output_dir=str(output), model_dir=model_dir,
        opts=["TASK", "B2N", "DATASET.SUBSAMPLE_CLASSES", classes, backbone, args.backbone,
              "TEST.NO_TEST", "True"],
    )


@torch.no_grad()
def measure(tested: Tested) -> dict[str, npt.NDArray[Any]]:
    """Logits, labels, priors (as "prior/<candidate>"), and the gap's slope between the halves of
    the trained classes."""
    trainer, material = tested.trainer, gather_material(tested)
    shown = material.shown()
    priors = {name: prior.values
              for name, prior in find_priors(trainer, tested.cfg.NERP, material,
                                             ALL_REFERENCES).items()}
    priors |= {name: logits.mean(0) for name, logits in _from_pictures(tested)}
    text = trainer.reference_class_features(material.reference())
    prompts = torch.nn.functional.normalize(
        trainer.clip.text_features(list(NEUTRAL_PROMPTS)), dim=-1)
    priors["five neutral prompts"] = trainer.scale * text @ prompts.mean(0)
    priors["mean feature"] = trainer.scale * text @ shown.features.mean(0)
    slope = slope_between_halves(shown.features, shown.labels, shown.text, trainer.scale)
    assert material.frozen_shown is not None
    frozen = material.frozen_shown()
    extra = {
        "features": encode_images(trainer.image_features, trainer.clip, tested.items,
                                  tested.bench.image_dir, tested.cfg),
        "text": text, "scale": torch.tensor(trainer.scale),
        "shown_features": shown.features, "shown_labels": shown.labels,
        "shown_text": shown.text, "shown_logits": material.shown_logits(trainer),
        "frozen_shown_features": frozen.features, "frozen_shown_text": frozen.text,
        "frozen_scale": torch.tensor(trainer.clip.scale),
    }
    return {
        **{name: value.float().numpy() if value.is_floating_point() else value.numpy()
           for name, value in extra.items()},
        "logits": tested.logits.numpy(), "labels": tested.labels, "slope": np.array(slope),
        **{f"prior/{name}": prior.float().numpy() for name, prior in priors.items()},
    }


def _from_pictures(tested: Tested) -> Iterator[tuple[str, Tensor]]:
    """Names of candidate references made from training images, with their logits [M, C]."""
    cfg, clip = tested.cfg, tested.trainer.clip
    _, bench = tested.seen_bench
    transform, normalise = eval_transform(cfg, clip.size), Normalise(cfg, clip.device)
    classify = tested.trainer.classifier()
    images = [open_image(bench.image_dir / item.path) for item in bench.train]
    labels = torch.tensor([item.label for item in bench.train])
    generator = torch.Generator().manual_seed(0)

    def through(change: Callable[[Image.Image], Image.Image]) -> Tensor:
        return torch.stack([transform(change(image)) for image in images])

    pixels = through(lambda image: image)
    side = pixels.shape[-1]
    candidates = {
        "blurred images": through(lambda image: image.filter(ImageFilter.GaussianBlur(8))),
        "patches shuffled": _shuffle_patches(pixels, side // 8, generator),
        "class means": torch.stack([pixels[labels == c].float().mean(0).byte()
                                    for c in range(len(bench.classnames))]),
        "means of four": torch.stack([
            pixels[torch.randperm(len(pixels), generator=generator)[:4]].float().mean(0).byte()
            for _ in range(64)]),
        "noise": torch.randint(0, 256, (64, 3, side, side), generator=generator).byte(),
        "flat colours": torch.randint(0, 256, (64, 3, 1, 1), generator=generator).byte()
        .expand(64, 3, side, side),
    }
    for name, chosen in candidates.items():
        yield name, classify(normalise(chosen))


def _shuffle_patches(pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Images [B, 3, S, S] with the patches of each image in its own random order."""
    batch, _, side, _ = pixels.shape
    count = side // size
    patches = pixels.unfold(2, size, size).unfold(3, size, size).reshape(batch, 3, -1, size, size)
    order = torch.rand(batch, patches.shape[2], generator=generator).argsort(1)
    patches = torch.stack([p[:, o] for p, o in zip(patches, order, strict=True)])
    grid = patches.reshape(batch, 3, count, count, size, size)
    return grid.permute(0, 1, 2, 4, 3, 5).reshape(pixels.shape)


# Reporting


class Model:
    """One model's kept arrays. `gain`: change of accuracy, in points, by a class bias [C].

    Attributes: spread: as `nerp.correction.correction.Run` has it. others: the match on the
    training images of other classes. shown: features, labels and class texts of the training
    images.
    """

    def __init__(self, file: Path):
        self.world, self.backbone, self.dataset = file.parts[-4:-1]
        self.method = file.stem
        with np.load(file) as arrays:
            self.logits, self.labels = torch.from_numpy(arrays["logits"]), arrays["labels"]
            self.slope = float(arrays["slope"])
            kept = {name: torch.from_numpy(arrays[name]) for name in (
                "features", "text", "shown_features", "shown_labels", "shown_text", "shown_logits",
                "frozen_shown_features", "frozen_shown_text")}
            self.scale, scale = float(arrays["scale"]), float(arrays["frozen_scale"])
            self.priors = {
                name.removeprefix("prior/"): torch.from_numpy(arrays[name] - arrays[name].mean())
                for name in arrays.files if name.startswith("prior/")
            }
        self.features, self.text = kept["features"], kept["text"]
        self.image_mean = kept["shown_features"].mean(0)
        self.shown = kept["shown_features"], kept["shown_labels"], kept["shown_text"]
        self.spread = float(kept["shown_logits"].std(dim=1, correction=0).mean())
        self.others = uniform_bias(kept["shown_logits"])
        self.frozen_slope = slope_between_halves(
            kept["frozen_shown_features"], kept["shown_labels"], kept["frozen_shown_text"], scale)
        self.plain = self._accuracy(torch.zeros(self.logits.shape[1]))

    def _accuracy(self, bias: Tensor) -> float:
        return 100 * float(((self.logits - bias).argmax(1).numpy() == self.labels).mean())

    def gain(self, bias: Tensor) -> float:
        return self._accuracy(bias) - self.plain

    def gap(self, towards: float, weight: float, frozen: bool = False) -> Tensor:
        """The gap's bias [C]. Its slope is averaged with the constant `towards`, whose weight is
        1 - weight.

        Args: frozen: whether the frozen model's slope is averaged in.
        """
        slopes = [self.slope]
        if frozen:
            assert self.frozen_slope is not None
            slopes.append(self.frozen_slope)
        slope = float(np.mean(np.clip(slopes, 0, 1)))
        return ((1 - weight) * towards + weight * slope) * self.priors["gap"]

    def automatic(self) -> Tensor:
        """The bias of NERP.RULE shift with its default references and strengths."""
        return (GAP_SHARE * self.gap(GAP_STRENGTH, 0.5, frozen=True)
                + IMAGE_STRENGTH * self.priors["image"] + MATCHED_STRENGTH * self.others)

    def earlier(self) -> Tensor:
        """The automatic bias before the frozen slope, the match and the larger share were added."""
        return self.gap(GAP_STRENGTH, 0.5) + 0.05 * self.priors["image"]

    def ceiling(self) -> float:
        return ceiling(self.logits, torch.from_numpy(self.labels))


def report(args: argparse.Namespace) -> None:
    """Try everything on every kept model, and write the page."""
    collected = [Model(file) for file in sorted(args.folder.glob("world*/*/demo_*/*.npz"))]
    models = [model for model in collected if model.backbone in SHIPPED]
    if not models:
        raise SystemExit(f"of no shipped backbone has anything been collected below {args.folder}")
    candidates = sorted(models[0].priors)
    rows = [_row(models, "match†", lambda m: uniform_bias(m.logits))]
    rows += [_row(models, f"{s:g} {name}", partial(_scaled, name, s))
             for name in candidates if name != "gap" for s in STRENGTHS]
    rows += [_row(models, f"{s:.2g} gap", partial(_scaled, "gap", s))
             for s in (0.2, 1 / 3, 0.5, 0.75, 1.0)]
    rows += [_row(models, f"gap by slope, shrunk to {to:.2g} with weight {w:g}",
                  partial(Model.gap, towards=to, weight=w))
             for w in (0.3, 0.5, 1.0) for to in (GAP_STRENGTH, 0.5)]
    rows += [_row(models, f"gap by slope, shrunk to {GAP_STRENGTH:.2g} with weight 0.5, + "
                  f"{s:g} {name}",
                  partial(_beside_the_gap, name, s))
             for name in ("image", "others", "text", "blurred images") for s in STRENGTHS]
    worlds = sorted({(m.world, m.backbone) for m in models})
    heads = ["", "mean", "better", "worse by > 0.5", "worst",
             *(f"{w.removeprefix('world')} {b}" for w, b in worlds)]
    where = ", ".join(f"`{b}` on the world of seed {w.removeprefix('world')}" for w, b in worlds)
    write_text(args.page, PAGE.format(
        count=len(models), where=where,
        table=tabulate(rows, heads, tablefmt="github", disable_numparse=True),
        curve=_curve(args.folder, collected)))
    print(args.page)


def _scaled(name: str, strength: float, model: Model) -> Tensor:
    return strength * model.priors[name]


def _beside_the_gap(name: str, strength: float, model: Model) -> Tensor:
    return model.gap(GAP_STRENGTH, 0.5) + _scaled(name, strength, model)


def _curve(folder: Path, models: list[Model]) -> str:
    """One row per backbone, over the benchmarks and methods that all of them have."""
    by_backbone: dict[tuple[str, str], dict[tuple[str, str], Model]] = {}
    for model in models:
        mine = by_backbone.setdefault((model.world, model.backbone), {})
        mine[model.dataset, model.method] = model
    common = sorted(set.intersection(*map(set, by_backbone.values())))
    rows = []
    for (world, backbone), mine in by_backbone.items():
        record = json.loads((folder / world / backbone / "record.json").read_text())
        settings, chosen = record["settings"], [mine[case] for case in common]
        tail = settings.get("tail", "images")
        top, shifted, matched = (
            float(np.mean([gain(model) for model in chosen]))
            for gain in (Model.ceiling, lambda m: m.gain(m.automatic()),
                         lambda m: m.gain(uniform_bias(m.logits)))
        )
        rows.append([
            f"{tail}, {settings['loss']} loss", f"{settings.get('exponent', 1.0):g}",
            f"{settings['images']:,}", f"{settings['steps']:,}", str(_rarest(record)),
            f"{np.mean([model.plain for model in chosen]):.1f}", f"{top:+.2f}",
            f"{matched:+.2f}", f"{shifted:+.2f}", f"{100 * shifted / top:.0f} %",
        ])
    heads = ["imbalanced in pre-training", "exponent", "images", "steps", "rarest class",
             "accuracy", "oracle‡", "match†", "shift", "of the oracle"]
    rows.sort(key=lambda row: row[:2])
    methods = ", ".join(dict.fromkeys(method for _, method in common))
    return (f"{methods} on {len({dataset for dataset, _ in common})} benchmarks.\n\n"
            + str(tabulate(rows, heads, tablefmt="github", disable_numparse=True)))


def _row(models: list[Model], name: str, bias: Callable[[Model], Tensor]) -> list[str]:
    gains = np.array([model.gain(bias(model)) for model in models])
    worlds = [(model.world, model.backbone) for model in models]
    means = [gains[[w == world for w in worlds]].mean() for world in sorted(set(worlds))]
    return [name, f"{gains.mean():+.2f}", f"{(gains > 0).sum()} of {len(gains)}",
            str((gains < -0.5).sum()), f"{gains.min():+.1f}", *(f"{mean:+.2f}" for mean in means)]


def _rarest(record: Mapping[str, Any]) -> int:
    """The number of captions with the name of the rarest class. If the record does not count
    captions, the number follows from Zipf's law."""
    classes = (record.get("captions_with_the_name") or record["class_frequency"]).values()
    least: float = min(value for world in classes for value in world.values())
    return int(least) if "captions_with_the_name" in record else round(
        least * record["settings"]["images"])


PAGE = """\
# How the shift was chosen

Made by `python tools/making/choose_shift.py report` from what its `collect` keeps: {count} models \
({where}), seed 1, 16 shots, novel classes. No other page reports these benchmarks. The shipped \
benchmarks were not touched.

Each row subtracts a multiple of one prior, less its mean over the classes, from the logits. The \
columns are the change of accuracy in points (mean over the models), how many models became \
better, how many became worse by more than half a point, the worst change, and the mean on each \
world. † is transductive and is shown for comparison only. The candidate priors are:

- text, the neutral prompt, and image, the mean training image, both as published;
- others, the mean logits of the base classes' training images, and the same of these images \
blurred, with their patches shuffled, averaged by class, or averaged four at a time;
- noise, flat colours, five neutral prompts averaged, and the mean feature of the training images;
- gap, the mean feature less what the classes' texts explain of it. “By slope” means that the \
strength of the gap is a slope, clipped to 0..1: that of the trained classes' biases on their gap \
priors, between halves of these classes.

{table}

## A steeper tail

The table shows the oracle gain of a class bias (‡, searched on the test labels), by what was \
imbalanced in pre-training and how strongly. “Images” means that the images of a class follow \
Zipf's law, as for the backbones that ship. “Names” means that all classes had equally many \
images; an unequal share of them had the class's name in their captions, and the rest an alias \
(`tools/making/pretrain_tiny_clip.py --tail names --exponent ...`). The rarest class is the one \
whose name the fewest captions had; the column counts them. Means over {curve}
"""


if __name__ == "__main__":
    main()
