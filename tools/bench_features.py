"""Time the work of methods on frozen features, without image encoding, on random features.

    python tools/bench_features.py
    python tools/bench_features.py --tested 50000 --classes 1000 --shots 16 --width 512

It times Tip-Adapter's test with a cache of classes x shots keys, LP++'s training on 100 classes,
and an epoch of Tip-Adapter-F on 100 classes. For comparison, --backbone (random weights) encodes
that epoch's images. It prints elapsed seconds, CPU seconds over all cores, and peak memory.
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from nerp.clip.backbones import find_backbone
from nerp.clip.model import Clip, normalise
from nerp.engine.record import process_peak_mib
from nerp.trainers import lppp, tip_adapter
from nerp.trainers.votes import sorted_keys

BATCH = 256
SMALL = 100  # the number of classes in the two trainings


def made(count: int, width: int) -> Tensor:
    """Features [count, width] of length 1."""
    return normalise(torch.randn(count, width))


def test_of_tip_adapter(args: argparse.Namespace) -> None:
    keys = made(args.classes * args.shots, args.width)
    labels = torch.arange(len(keys)) % args.classes
    text, tested = made(args.classes, args.width), made(args.tested, args.width)
    keys, labels = sorted_keys(keys, labels)
    for part in tested.split(500):
        tip_adapter.logits(part, text, keys, labels, 5.5, 1.0).argmax(1)


def epoch_of_tip_adapter_f(args: argparse.Namespace) -> None:
    features, text = made(SMALL * args.shots, args.width), made(SMALL, args.width)
    labels = torch.arange(len(features)) // args.shots
    keys = torch.nn.Parameter(features.clone())
    optimizer = torch.optim.AdamW([keys], lr=0.001, eps=1e-4)
    for batch in torch.randperm(len(features)).split(BATCH):
        found = tip_adapter.logits(features[batch], text, keys, labels, 1.0, 1.0)
        optimizer.zero_grad()
        F.cross_entropy(found, labels[batch]).backward()
        optimizer.step()


def training_of_lppp(args: argparse.Namespace) -> None:
    labels = torch.arange(SMALL * args.shots) % SMALL
    held = torch.arange(SMALL * 4) % SMALL
    lppp.fit(made(len(labels), args.width), labels, made(SMALL, args.width), torch.zeros(SMALL),
             300, made(len(held), args.width), held)


def encoding(args: argparse.Namespace) -> Callable[[argparse.Namespace], None]:
    """A function that encodes a hundredth of an epoch's images with the backbone."""
    from open_clip.model import CLIP

    config = find_backbone(args.backbone).config
    assert config is not None, f"open_clip has no {args.backbone}"
    model = CLIP(**{key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")})
    clip = Clip(model.eval(), "fp32", torch.device("cpu"), args.backbone)
    images = torch.randn(SMALL * args.shots // 100, 3, clip.size, clip.size)

    def encode(args: argparse.Namespace) -> None:
        clip.image_features(images)

    return encode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tested", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--backbone", default="ViT-B-16:laion2b_s34b_b88k")
    args = parser.parse_args()
    measured = {
        "Tip-Adapter, test": (test_of_tip_adapter, 1),
        "Tip-Adapter-F, an epoch": (epoch_of_tip_adapter_f, 1),
        "LP++, training": (training_of_lppp, 1),
        "encoding an epoch's images": (encoding(args), 100),
    }
    rows = []
    for name, (work, times) in measured.items():
        start, cores = time.perf_counter(), time.process_time()
        with torch.set_grad_enabled(work is epoch_of_tip_adapter_f):
            work(args)
        rows.append([name, times * (time.perf_counter() - start),
                     times * (time.process_time() - cores), process_peak_mib()])
    print(tabulate(rows, ["", "s", "s of cores", "peak MiB so far"], floatfmt=".1f"))


if __name__ == "__main__":
    main()
