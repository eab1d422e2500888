"""List the registered methods by group: learned parameters on a backbone, checkpoint folder,
paper."""

from itertools import groupby

from nerp.commands.common import draw

_LEAST = 14  # columns for the papers, however narrow the terminal


def add_arguments(parser):
    parser.add_argument("--backbone", default="ViT-B/16", metavar="NAME",
                        help="count parameters for this one: ViT-B/16 (default), ViT-B/32, "
                             "ViT-L/14, RN50, RN101, tiny or tiny-biased; no weights are needed")


def main(args):
    from nerp.trainers.summary import method_rows

    rows = []
    for group, methods in groupby(method_rows(args.backbone), key=lambda row: row[-1]):
        rows.append([f"{group}:", "", "", ""])
        rows += [[name, "–" if count is None else f"{count:,}", folder, paper]
                 for name, count, folder, paper, _ in methods]
    print(draw(rows, ["method", "learned\nparameters", "checkpoint\nfolder", "paper"], _LEAST,
               colalign=("left", "right", "left", "left")))
    print(f"\nLearned parameters on {args.backbone}, with default settings and 10 classes\n"
          "(–: these do not fit it). Checkpoints lie in a run's checkpoint folder. Every\n"
          "method can be tested with NeRP: append _NeRP to its name; and trained with SAR\n"
          "where classes have learned features of their own: _SAR, before _NeRP.")
