"""The main job without a download, on a drawn benchmark and a tiny CLIP, which both ship. It trains
MMRL with 16 images per base class, tests it on base and novel classes, corrects the predictions on
novel classes with NeRP, and prints what it measured. README says what this world can show."""

import argparse

from nerp.commands.common import add_drawn_arguments, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_drawn_arguments(parser, [1, 2, 3], "output/demo")
    parser.add_argument("--all", action="store_true",
                        help="every method that serves novel classes instead of MMRL only")
    parser.add_argument("--dataset", default="demo_landcover",
                        help="demo_landcover (default), demo_textures or demo_objects")
    parser.add_argument("--backbone", default="tiny", choices=["tiny", "tiny-biased"],
                        help="tiny-biased keeps the class frequencies of its training")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE",
                        help="configuration values, such as NERP.TAU 1")


def main(args: argparse.Namespace) -> None:
    import time

    from nerp.base.registry import unknown
    from nerp.demo.job import Demo, Settings, all_methods, demo_datasets, table

    if args.dataset not in demo_datasets():
        raise unknown("demo dataset", args.dataset, demo_datasets())
    settings = Settings(
        dataset=args.dataset,
        backbone=args.backbone,
        methods=all_methods() if args.all else ("MMRL",),
        seeds=tuple(args.seeds),
        root=args.root,
        output=args.output_dir,
        options=tuple(args.opts),
    )
    start = time.monotonic()
    tell(f"{args.dataset} with the shipped backbone {args.backbone}; runs go to {args.output_dir}")
    demo = Demo(settings, tell)
    rows = demo.rows()
    several = len(settings.seeds) > 1
    seeds = ", ".join(map(str, settings.seeds))
    print(f"\nAccuracy in percent, 16 shots, seed{'s' * several} {seeds}"
          + (" (mean ± standard deviation)" if several else "") + "\n")
    print(table(rows))
    tell(f"\n{demo.caption()}\n"
         + "".join(f"{method}: {what}.\n" for method, what in demo.remarks.items())
         + f"A drawn world and a tiny CLIP: good for trying things, no evidence about CLIP. "
         f"{time.monotonic() - start:.0f} s.\n\nNext, a page about what the correction changed:")
    print(f"nerp explain {demo.folders[-1]}")
