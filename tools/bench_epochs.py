"""Time training that reuses the augmented images' features of an earlier training; synthetic data.

    python tools/bench_epochs.py                   CoOp, then KgCoOp, ViT-B/16, C = 50
    python tools/bench_epochs.py --methods KgCoOp --batch 128
    python tools/bench_epochs.py --epochs 2 --images 64

It measures whole commands, with start-up and saving, in seconds of CPU time over all cores. Other
work on the machine changes CPU time less than elapsed time. Each method trains without kept
features (DATALOADER.FEATURES_MB 0), then with the features that the first method keeps. The
backbone has random weights.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from tabulate import tabulate

from nerp.data.published import published

CARD = """DATASET:
  NAME: "Made"
  DIRECTORY: "made"
  LAYOUT: "folders"
  TEMPLATE: "a photo of a {}."
"""


def made_data(root: Path, classes: int, images: int) -> Path:
    """The card of a data set with random images and real class names, which is written here."""
    rng = np.random.default_rng(0)
    for n, name in enumerate(published()["ImageNet"]["classnames"][:classes]):
        for split, count in (("train", -(-images // classes)), ("test", 1)):
            folder = root / "made" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{n}_{i}.jpg")
    card = root / "made.yaml"
    card.write_text(CARD)
    return card


def processor() -> float:
    """Seconds of CPU time, over all cores, of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["CoOp", "KgCoOp"])
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu", help="open_clip's name")
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32, help="images per training step")
    args = parser.parse_args()
    rows: list[list[str | float | None]] = []
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        card = made_data(root, args.classes, args.images)
        weights = root / "weights.pt"
        torch.manual_seed(0)
        model = open_clip.create_model(args.backbone, load_weights=False)
        torch.save(model.state_dict(), weights)
        for method in args.methods:
            command = [
                sys.executable, "-m", "nerp", "train", "--trainer", method, "--dataset", str(card),
                "--root", str(root), "MODEL.BACKBONE.PATH", str(weights), "DATASET.NUM_SHOTS", "-1",
                "OPTIM.MAX_EPOCH", str(args.epochs), "TEST.NO_TEST", "True",
                "DATALOADER.TRAIN_X.BATCH_SIZE", str(args.batch),
            ]
            seconds = {}
            for kept, memory in (("alone", "0"), ("first", "2048"), ("second", "2048")):
                if kept == "first" and rows:
                    continue  # an earlier method has filled the cache
                start = processor()
                subprocess.run([*command, "DATALOADER.FEATURES_MB", memory, "--output-dir",
                                str(root / f"{method}-{kept}")], check=True, capture_output=True)
                seconds[kept] = processor() - start
            alone, reads = seconds["alone"], seconds["second"]
            ratios.append(alone / reads)
            ten = 10 * alone / (seconds.get("first", alone) + 9 * reads)
            rows.append([method, alone, seconds.get("first"), reads, ratios[-1], ten])
    print(tabulate(rows, headers=["training", "s alone", "s that fills", "s that reads",
                                  "alone / reads", "ten trainings"],
                   floatfmt=".1f", tablefmt="github"))
    print("\nten trainings: from the columns before, all ten alone / one that fills and nine that "
          "read")
    mean = statistics.geometric_mean(ratios)
    print(f"{args.backbone}, {args.classes} classes, {args.images} images in batches of "
          f"{args.batch}, {args.epochs} epochs, {torch.get_num_threads()} threads; in the mean "
          f"{mean:.1f} times as fast")


if __name__ == "__main__":
    main()
