"""List the registered methods: learned parameters on a backbone, checkpoint folder, paper."""


def add_arguments(parser):
    parser.add_argument("--backbone", default="ViT-B/16", metavar="NAME",
                        help="count parameters for this one: ViT-B/16 (default), ViT-B/32, "
                             "ViT-L/14, tiny or tiny-biased; no weights are needed")


def main(args):
    from tabulate import tabulate

    from nerp.trainers.summary import method_rows

    rows = method_rows(args.backbone)
    print(tabulate(rows, headers=["method", "learned parameters", "paper"], intfmt=","))
    print(f"\nLearned parameters on {args.backbone}, with each method's default settings and 10 "
          "classes.\nEvery method can be tested with NeRP: append _NeRP to its name.")
