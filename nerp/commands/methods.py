"""List the registered methods: learned parameters on a backbone, checkpoint folder, paper."""

from nerp.commands.common import terminal_width

_LEAST = 16  # columns for the papers, however narrow the terminal


def add_arguments(parser):
    parser.add_argument("--backbone", default="ViT-B/16", metavar="NAME",
                        help="count parameters for this one: ViT-B/16 (default), ViT-B/32, "
                             "ViT-L/14, RN50, RN101, tiny or tiny-biased; no weights are needed")


def main(args):
    from nerp.trainers.summary import method_rows

    rows = [[name, "–" if count is None else f"{count:,}", folder, paper]
            for name, count, folder, paper in method_rows(args.backbone)]
    print(_table(rows, terminal_width()))
    print(f"\nLearned parameters on {args.backbone}, with default settings and 10 classes\n"
          "(–: these do not fit it). Checkpoints lie in a run's checkpoint folder. Every\n"
          "method can be tested with NeRP: append _NeRP to its name; and trained with SAR\n"
          "where classes have learned features of their own: _SAR, before _NeRP.")


def _table(rows: list[list[str]], width: int) -> str:
    """The rows as a table; the last column is wrapped where it is wider than `width`."""
    from tabulate import tabulate

    def draw(most=None):
        return tabulate(
            rows, ["method", "learned\nparameters", "checkpoint\nfolder", "paper"],
            disable_numparse=True, colalign=("left", "right", "left", "left"),
            maxcolwidths=[None, None, None, most],
        )

    text = draw()
    excess = max(map(len, text.splitlines())) - width
    if excess <= 0:
        return text
    return draw(max(_LEAST, max(len(row[-1]) for row in rows) - excess))
