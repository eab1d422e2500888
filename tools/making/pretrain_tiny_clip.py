"""Train a tiny CLIP from scratch on images of the procedural worlds: the backbones that ship.

    python tools/making/pretrain_tiny_clip.py --loss plain --out nerp/demo/weights/tiny.safetensors
    python tools/making/pretrain_tiny_clip.py --loss unique \\
        --out nerp/demo/weights/tiny-biased.safetensors

The defaults are the settings of the shipped files. A record of the run is written beside the
weights (same name, .json): settings, losses, and zero-shot accuracy on the benchmarks.
"""

import argparse
import json
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import Transformer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import trange

from nerp.clip.loading import load_model
from nerp.clip.model import Clip
from nerp.demo.world import PRETRAINING_SEED, WORLDS, World, build, class_frequency, draw, draw_many
from nerp.engine.metrics import spearman

# Both encoders have these sizes. With heads of 64 the tensors show the architecture.
WIDTH, LAYERS, PATCH, IMAGE_SIZE = 128, 4, 8, 64
# CLIP's final scale. If it is learned, it settles at 13 here, with 1 to 3 points less accuracy.
LOGIT_SCALE = 100.0
NEUTRAL_SHARE = 0.03
WARMUP_STEPS = 150
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD)

# Two of these letters form a class's alias, which replaces its name in some captions.
ALIAS_LETTERS = "bcdfghjk"

Whole = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]
Pooled = tuple[str, int, int]  # an image to draw: world, label, index
Loss = Callable[[Tensor, Tensor], Tensor]
ZeroShot = dict[str, float | dict[str, float]]  # one benchmark's results (`zero_shot`)

# Every class as (world, label). Its index here is the class number of images.
CLASSES = [(name, label) for name in WORLDS for label in range(len(WORLDS[name].classnames))]


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    started = time.perf_counter()
    images, classes, named = draw_pool(args.images, args.seed, args.exponent, args.tail)
    drawn = time.perf_counter()
    model, rows, losses = train(args, images, classes, named)
    trained = time.perf_counter()
    save(model, rows, args.out)
    found = zero_shot(args.out, args.exponent)
    record = {
        "command": shlex.join(["python", "tools/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "settings": {
            **{k: v for k, v in vars(args).items() if k != "out"},
            "width": WIDTH, "layers": LAYERS, "patch": PATCH, "image_size": IMAGE_SIZE,
            "neutral_share": NEUTRAL_SHARE, "warmup_steps": WARMUP_STEPS,
            "weight_decay": WEIGHT_DECAY, "betas": BETAS, "gradient_clipping": 1.0,
        },
        "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__},
        "threads": torch.get_num_threads(),
        "seconds": {"drawing": round(drawn - started), "training": round(trained - drawn)},
        "images_per_second": round(args.steps * args.batch_size / (trained - drawn)),
        "loss": losses,
        "logit_scale": LOGIT_SCALE,
        "zero_shot": found,
        "class_frequency": {name: class_frequency(name, args.exponent) for name in WORLDS},
        "captions_with_the_name": count_names(classes[named]),
    }
    args.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    for name, result in found.items():
        print(name, {key: result[key] for key in ("all", "base", "novel")})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=LOSSES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--exponent", type=float, default=1.0, help="exponent of Zipf's law")
    parser.add_argument("--tail", choices=("images", "names"), default="images",
                        help="Zipf's law applies to each class's images or to its names")
    parser.add_argument("--images", type=int, default=80_000, help="images drawn once, then reused")
    parser.add_argument("--steps", type=int, default=3_600)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument(
        "--patches", type=int, default=32, help="seen of each image but in the last fifth of steps"
    )
    parser.add_argument("--seed", type=int, default=PRETRAINING_SEED)
    return parser.parse_args()


# Images and captions


def draw_pool(
    count: int, seed: int, exponent: float, tail: str
) -> tuple[Tensor, Whole, Flags]:
    """Images [count, 64, 64, 3] uint8, their class numbers [count], and whether each is captioned
    with its class's name [count].

    Zipf's law applies to the images of each class or to its names. In the first case every caption
    has the name. In the second case classes have equally many images; an unequal share of them has
    the name, the others have the alias.
    """
    shares = np.array([s for name in WORLDS for s in class_frequency(name, exponent).values()])
    rng = np.random.default_rng(seed)
    if tail == "images":
        classes = rng.choice(len(CLASSES), count, p=shares)
        named = np.ones(count, bool)
    else:
        classes = rng.integers(len(CLASSES), size=count)
        named = rng.random(count) < (shares / shares.max())[classes]
    items: list[Pooled] = [(*CLASSES[number], index) for index, number in enumerate(classes)]
    images = draw_many(partial(_draw, seed), items, progress=True, description="drawing")
    return torch.from_numpy(np.stack(images)), classes, named


def _draw(seed: int, item: Pooled) -> npt.NDArray[np.uint8]:
    name, label, index = item
    return draw(name, seed, "pretraining", label, index)


def count_names(classes: Whole) -> dict[str, dict[str, int]]:
    """{world: {class: number of images}} from the images' class numbers."""
    counts = np.bincount(classes, minlength=len(CLASSES)).tolist()
    return {world: {WORLDS[world].classnames[label]: count
                    for (name, label), count in zip(CLASSES, counts, strict=True) if name == world}
            for world in WORLDS}


def all_captions(with_alias: bool) -> tuple[list[str], Whole]:
    """Every possible caption, and for each class number the indices of its captions.

    The indices are [CLASSES, 1 + templates]: first the world's neutral prompt, then the class's
    name in each template. With `with_alias` the alias in each template follows.
    """
    texts = [world.neutral for world in WORLDS.values()]
    places: list[list[int]] = []
    for number, (name, label) in enumerate(CLASSES):
        templates, classname = WORLDS[name].captions, WORLDS[name].classnames[label]
        first, second = divmod(number, len(ALIAS_LETTERS))
        alias = f"{ALIAS_LETTERS[first]} {ALIAS_LETTERS[second]}"
        called = (classname, alias) if with_alias else (classname,)
        own = range(len(texts), len(texts) + len(called) * len(templates))
        places.append([list(WORLDS).index(name), *own])
        texts += [template.format(word) for word in called for template in templates]
    return texts, np.array(places)


def sample_captions(
    rng: np.random.Generator, places: Whole, templates: int, named: Flags
) -> Tensor:
    """Indices [B] of a random caption for each image. places: the caption indices of each image's
    class (`all_captions`). named: whether each image's caption uses the name."""
    template = rng.integers(1, 1 + templates, len(places)) + np.where(named, 0, templates)
    template[rng.random(len(places)) < NEUTRAL_SHARE] = 0
    return torch.from_numpy(places[np.arange(len(places)), template])


def tokenise(texts: list[str]) -> Tensor:
    """Token ids [C, L] of texts, cut to the longest."""
    tokens: Tensor = open_clip.tokenize(texts)
    return tokens[:, : int(tokens.argmax(1).max()) + 1]


def normalise(images: Tensor) -> Tensor:
    """The image encoder's input, float [B, 3, 64, 64], from uint8 images [B, 64, 64, 3]."""
    return ((images.float() / 255 - MEAN) / STD).permute(0, 3, 1, 2)


# Both encoders of an open_clip model, from its own layers. Attention is three plain products. In
# bfloat16 on a CPU, at these sizes, they are twice as fast as the fused one that open_clip calls.


def encode_images(model: CLIP, images: Tensor, patches: int) -> Tensor:
    """Normalised features [B, D] of images [B, 3, 64, 64], from `patches` random patches of each.
    """
    tower = model.visual
    x = tower.conv1(images).flatten(2).transpose(1, 2) + tower.positional_embedding[1:]
    if patches < x.shape[1]:
        seen = torch.rand(x.shape[:2]).topk(patches).indices
        x = x.gather(1, seen[..., None].expand(-1, -1, x.shape[2]))
    start = (tower.class_embedding + tower.positional_embedding[0]).expand(len(x), 1, -1)
    x = _blocks(tower.transformer, tower.ln_pre(torch.cat([start, x], 1)))
    return F.normalize((tower.ln_post(x[:, 0]) @ tower.proj).float(), dim=-1)


def encode_texts(model: CLIP, tokens: Tensor) -> Tensor:
    """Normalised features [C, D] of tokens [C, L]; the largest id is end-of-text."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = _blocks(model.transformer, x, model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)]
    return F.normalize((x @ model.text_projection).float(), dim=-1)


def _blocks(transformer: Transformer, x: Tensor, mask: Tensor | None = None) -> Tensor:
    for block in transformer.resblocks:
        x = x + _attention(block.attn, block.ln_1(x), mask)
        x = x + block.mlp(block.ln_2(x))
    return x


def _attention(layer: nn.MultiheadAttention, x: Tensor, mask: Tensor | None) -> Tensor:
    batch, length, width = x.shape
    qkv = F.linear(x, layer.in_proj_weight, layer.in_proj_bias)
    q, k, v = qkv.view(batch, length, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
    return F.linear(mixed, layer.out_proj.weight, layer.out_proj.bias)


# Losses of logits [B, U] over the U unique captions of a batch. own [B]: each image's caption.


def plain_loss(logits: Tensor, own: Tensor) -> Tensor:
    """CLIP's symmetric loss over the B captions, repetitions included."""
    logits, target = logits[:, own], torch.arange(len(own))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def unique_loss(logits: Tensor, own: Tensor) -> Tensor:
    """The symmetric loss over unique captions; a caption is correct for all images that have it.

    Its optimum is p(caption | image), which depends on how frequent a caption is. In the plain loss
    the repetitions among the wrong captions divide by p(caption), and the frequency cancels.
    """
    share = F.one_hot(own, logits.shape[1]).T.float()
    share = share / share.sum(1, keepdim=True)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, share)) / 2


LOSSES: dict[str, Loss] = {"plain": plain_loss, "unique": unique_loss}


# Training


def train(
    args: argparse.Namespace, images: Tensor, classes: Whole, named: Flags
) -> tuple[CLIP, Tensor, list[list[float]]]:
    """The trained model, the token ids [n] that its n embeddings stand for, and the loss curve."""
    texts, places = all_captions(with_alias=not named.all())
    templates = len(WORLDS["demo_landcover"].captions)  # every world has as many
    # Only words that occur get an embedding. Sorted ids keep end-of-text the largest.
    rows, tokens = tokenise(texts).unique(return_inverse=True)
    model = build_model(len(rows))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=args.lr,
        betas=BETAS,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_rate, args.steps))
    rng, order = np.random.default_rng(args.seed), np.empty(0, int)
    losses: list[float] = []
    bar = trange(args.steps, unit="step", desc=f"training, {args.loss} loss", mininterval=1)
    for step in bar:
        if len(order) < args.batch_size:
            order = rng.permutation(len(images))
        batch, order = order[: args.batch_size], order[args.batch_size :]
        flipped = torch.from_numpy(rng.random(len(batch)) < 0.5)[:, None, None, None]
        inputs = torch.where(flipped, images[batch].flip(2), images[batch])
        captions = sample_captions(rng, places[classes[batch]], templates, named[batch])
        unique, own = captions.unique(return_inverse=True)
        # Half of the patches train nearly as well, in half the time. The last steps use all.
        patches = args.patches if step < 0.8 * args.steps else (IMAGE_SIZE // PATCH) ** 2
        with torch.autocast("cpu", torch.bfloat16):
            f = encode_images(model, normalise(inputs), patches)
            t = encode_texts(model, tokens[unique])
        loss = LOSSES[args.loss](LOGIT_SCALE * f @ t.T, own)
        optimiser.zero_grad()
        loss.backward()
        clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 49:
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
    parts = np.array_split(losses, min(30, len(losses)))
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return model, rows, [[e, round(float(p.mean()), 4)] for e, p in zip(ends, parts, strict=True)]


def build_model(words: int) -> CLIP:
    """open_clip's CLIP in the shipped size, with `words` token embeddings."""
    model = CLIP(
        embed_dim=WIDTH,
        vision_cfg=CLIPVisionCfg(
            layers=LAYERS, width=WIDTH, head_width=64, patch_size=PATCH, image_size=IMAGE_SIZE
        ),
        text_cfg=CLIPTextCfg(layers=LAYERS, width=WIDTH, heads=WIDTH // 64, vocab_size=words),
        quick_gelu=True,
    )
    model.logit_scale.requires_grad_(False).fill_(math.log(LOGIT_SCALE))
    return model


def _rate(steps: int, step: int) -> float:
    """Linear warm-up, then half a cosine down to 0, as a factor of the learning rate."""
    return min((step + 1) / WARMUP_STEPS, (1 + math.cos(math.pi * step / steps)) / 2)


def save(model: CLIP, rows: Tensor, path: Path) -> None:
    """Write the weights in half precision with OpenAI's names and the token ids of their rows."""
    tensors = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    tensors["token_embedding.rows"] = rows.int()
    metadata = {"format": "pt", "name": path.stem, "activation": "quick_gelu"}
    save_file(tensors, path, metadata)


# Evaluation


@torch.no_grad()
def zero_shot(path: Path, exponent: float) -> dict[str, ZeroShot]:
    """Per benchmark: accuracies in % and the correlation of prediction counts with class frequency.

    Each benchmark uses its own template and its test split. `base` and `novel` predict among their
    half of the classes, `all` and `per_class` among all. `frequency_correlation` is Spearman's,
    between class shares in pre-training and prediction counts (test sets are balanced).
    """
    clip = Clip(load_model(path), "fp32", torch.device("cpu"), str(path))
    results = {}
    with tempfile.TemporaryDirectory() as root:
        for name, world in WORLDS.items():
            images, labels = read_test_split(build(name, root), world)
            texts = [world.template.format(classname) for classname in world.classnames]
            t = F.normalize(clip.text_features(texts), dim=-1)
            parts = normalise(images).split(250)
            f = torch.cat([clip.image_features(part) for part in parts])
            results[name] = _summary(
                f @ t.T, labels, world.classnames, class_frequency(name, exponent)
            )
    return results


def read_test_split(folder: Path, world: World) -> tuple[Tensor, Tensor]:
    """Images [N, 64, 64, 3] uint8 and labels [N] of a drawn benchmark's test split."""
    split = json.loads((folder / f"split_zhou_{world.registry_name}.json").read_text())["test"]
    images = [np.asarray(Image.open(folder / "images" / path)) for path, _, _ in split]
    return torch.from_numpy(np.stack(images)), torch.tensor([label for _, label, _ in split])


def _summary(
    logits: Tensor, labels: Tensor, classnames: Sequence[str], frequency: Mapping[str, float]
) -> ZeroShot:
    half = (len(classnames) + 1) // 2
    base, novel = labels < half, labels >= half
    predicted = logits.argmax(1)
    right = predicted == labels
    counts = predicted.bincount(minlength=len(classnames)).numpy()
    correlation = spearman(list(frequency.values()), counts)
    assert correlation is not None  # neither is constant
    return {
        "all": _percent(right),
        "base": _percent(logits[base, :half].argmax(1) == labels[base]),
        "novel": _percent(logits[novel, half:].argmax(1) + half == labels[novel]),
        "per_class": {c: _percent(right[labels == i]) for i, c in enumerate(classnames)},
        "frequency_correlation": round(correlation, 3),
    }


def _percent(right: Tensor) -> float:
    return round(100 * right.float().mean().item(), 1)


if __name__ == "__main__":
    main()
