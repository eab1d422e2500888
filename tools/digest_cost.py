"""Measure the cost of identifying images by content, in a first test and in later ones.

It writes JPEGs of a photograph's size and measures CPU time over all threads, so that other work on
the machine does not count. It times decoding and encoding the images once with the tiny backbone,
computing their digests when none is kept, and checking the files when all digests are kept. Rounds
alternate.

  python tools/digest_cost.py --images 2000
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nerp.clip.model import build_clip
from nerp.data.benchmark import Item
from nerp.data.digests import images_state, seen_images
from nerp.engine.evaluate import encode_images
from nerp.settings.defaults import default_config

SIZE, QUALITY = (500, 375), 88  # pixels; about 65 kB of a photograph's texture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        items = make(folder, args.images)
        clip, _ = build_clip("tiny", "", "auto", "fp32", torch.device("cpu"))
        cfg = default_config()
        time.sleep(2.5)  # digests of files that were just written are not kept
        found: dict[str, list[float]] = {"test": [], "first": [], "later": [], "look": []}
        for _ in range(args.rounds):
            (folder / "cache" / "nerp" / "images.json").unlink(missing_ok=True)
            for what, function in {
                "first": lambda: seen_images(items, folder),
                "later": lambda: seen_images(items, folder),
                "look": lambda: images_state(items, folder),
                "test": lambda: encode_images(clip.image_features, clip, items, folder, cfg),
            }.items():
                found[what].append(seconds(function))
    median = {what: statistics.median(times) / args.images for what, times in found.items()}
    for what, of_each in median.items():
        print(f"{what}: {1e3 * of_each:.4f} ms an image")
    first = 100 * (median["first"] - median["look"]) / median["test"]
    later = 100 * (median["later"] - median["look"]) / median["test"]
    print(f"a first test: {first:.2f} % more than with a look alone; a later one: {later:.2f} %")


def make(folder: Path, count: int) -> list[Item]:
    """Images with as much texture as a photograph."""
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (SIZE[1] // 4, SIZE[0] // 4, 3), np.uint8)
    base = np.asarray(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC), np.int16)
    items = []
    for i in range(count):
        noisy = base + random.integers(-6, 7, base.shape, np.int16)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(
            folder / f"{i}.jpg", quality=QUALITY)
        items.append(Item(f"{i}.jpg", 0, "class"))
    print(f"{count} images, {(folder / '0.jpg').stat().st_size:,} bytes each")
    return items


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    main()
