"""How much faster a training is whose augmented images another one has encoded, on made images.

    python tools/bench_epochs.py                   CoOp, KgCoOp and CoOp again, ViT-B/16, C = 50
    python tools/bench_epochs.py --epochs 2 --images 64

Whole commands are timed, start-up and saving included. Each method trains without the other's
features (DATALOADER.FEATURES_MB 0), then with them, on random weights of the architecture.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
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
    """So many random pictures of classes with real names; their card."""
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["CoOp", "KgCoOp"])
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu", help="open_clip's name")
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--epochs", type=int, default=1)
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
                "DATALOADER.TRAIN_X.BATCH_SIZE", "32",
            ]
            seconds = {}
            for kept, memory in (("alone", "0"), ("first", "2048"), ("second", "2048")):
                if kept == "first" and rows:
                    continue  # the method before has filled it
                start = time.perf_counter()
                subprocess.run([*command, "DATALOADER.FEATURES_MB", memory, "--output-dir",
                                str(root / f"{method}-{kept}")], check=True, capture_output=True)
                seconds[kept] = time.perf_counter() - start
            ratios.append(seconds["alone"] / seconds["second"])
            rows.append([method, seconds["alone"], seconds.get("first"), seconds["second"],
                         ratios[-1]])
    print(tabulate(rows, headers=["training", "s alone", "s that fills", "s that reads",
                                  "alone / reads"], floatfmt=".1f", tablefmt="github"))
    mean = statistics.geometric_mean(ratios)
    print(f"\n{args.backbone}, {args.classes} classes, {args.images} images, {args.epochs} epochs, "
          f"{torch.get_num_threads()} threads; in the mean {mean:.1f} times as fast")


if __name__ == "__main__":
    main()
