"""List the backbones for MODEL.BACKBONE.NAME: sizes, published weights, the methods that fit.

NAME:TAG means weights that open_clip lists, such as ViT-B-16:laion2b_s34b_b88k. hf-hub:OWNER/NAME
means a repository of the Hugging Face hub in open_clip's format. open_clip fetches both once, into
its cache. INPUT follows what they were trained with. With names, only these are listed.
"""

import argparse

from nerp.commands.common import draw, tell

_LEAST = 24  # columns for the methods and the tags, however narrow the terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help="such as ViT-B-16, or hf-hub:OWNER/NAME; one that cannot be used is "
                             "refused with the reason (default: all that can)")


def main(args: argparse.Namespace) -> None:
    from open_clip import list_pretrained_tags_by_model

    from nerp.base.registry import TRAINERS
    from nerp.clip.backbones import licence, supported
    from nerp.clip.loading import PUBLISHED, SHIPPED
    from nerp.trainers.summary import backbone_row

    default = [*SHIPPED, *(name for name in supported() if not name.endswith("-quickgelu"))]
    rows: list[list[str]] = []
    tagged: list[list[str]] = []
    licences: dict[str, set[str]] = {}
    for row in map(backbone_row, args.names or default):
        lacking = [name for name in TRAINERS.names() if name not in row.methods]
        methods = f"all but {', '.join(lacking)}" if lacking else "all"
        tags = list_pretrained_tags_by_model(PUBLISHED.get(row.name, row.name).partition(":")[0])
        rows.append([row.name, str(row.patch or "–"), str(row.pixels), str(row.embed_dim),
                     f"{row.layers[0] or 'ResNet'}/{row.layers[1]}", methods])
        if tags:
            tagged.append([row.name, ", ".join(tags)])
        for tag in tags:
            licences.setdefault(licence(tag), set()).add(tag.split("_")[0])
    print(draw(rows, ["name", "patch", "pixels", "D", "layers", "methods"], _LEAST))
    if tagged:
        print(f"\n{draw(tagged, ['name', 'tags'], _LEAST)}")
    print()
    for text, families in sorted(licences.items()):
        tell(f"licence of {', '.join(sorted(families))}: {text}")
    tell(", ".join(f"{ours} is {theirs}:openai" for ours, theirs in PUBLISHED.items()))
    tell("methods: which fit with default settings, or with those of the configuration that a run "
         "on the backbone takes; with fewer layers others may")
