"""Class pairs for NeRP.

mine   writes the pairs that a source finds, in the published bundle format, with what they have
       looked at; the bundle is for NERP.PAIRS bundle NERP.PAIRS_FILE FILE
audit  compares a bundle's pairs with what each source yields, and says which information they
       are closest to

FILE is JSON, gzipped if its name ends in .gz: {"EuroSAT_sub": [["River", "Sea or Lake"]]}. The key
of an entry is DATASET.NAME, with _sub after it for base-to-novel (TASK B2N). The entry lists pairs
of class names. docs/nerp.md says more.

  nerp pairs mine pairs.json.gz --trainer MMRL --model-dir RUN \\
    --dataset eurosat --classes new
"""

import argparse
import textwrap

from nerp.commands.common import (
    add_model_arguments,
    add_run_arguments,
    request,
    terminal_width,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["mine", "audit"])
    parser.add_argument("file", metavar="FILE", help="the bundle, such as class_pairs.json.gz")
    add_run_arguments(parser)
    add_model_arguments(parser)


def main(args: argparse.Namespace) -> None:
    wanted = request(args)
    from tabulate import tabulate

    from nerp.base.log import say, say_on_terminal
    from nerp.correction.audit import audit, verdict
    from nerp.correction.bundle import add_entry, bundle_key, counted
    from nerp.correction.pairs import find_pairs, listed_scores, strongest_pairs
    from nerp.correction.wrapper import make_clues
    from nerp.data.benchmark import distinct
    from nerp.engine.correct import gather_material
    from nerp.engine.tested import Tested
    from nerp.settings.resolve import resolve

    say_on_terminal()
    tested = Tested(resolve(wanted))
    clues = make_clues(tested.trainer, tested.cfg, gather_material(tested))
    key = bundle_key(clues.dataset, clues.task)
    if args.action == "mine":
        pairs = find_pairs(clues)
        names = distinct(clues.classnames)
        listed = [[names[i], names[j]] for i, j in pairs.index.tolist()]
        add_entry(args.file, key, listed, pairs.source, pairs.looked_at)
        say(f"{args.file}, entry {key}: {pairs.note}; looked at {pairs.looked_at}")
        return
    matches = audit(strongest_pairs(listed_scores(args.file, clues).matrix, 0), clues)
    rows = [
        [m.source, m.looked_at, f"{m.overlap} of {m.pairs}", f"{m.chance:.1f}",
         f"{m.probability:.2g}", f"{m.precision:.2f}", f"{m.recall:.2f}"]
        if not m.missing else [m.source, *"–" * 6]
        for m in matches
    ]
    say(f"\n{args.file}, entry {key}: {counted(matches[0].given)}\n")
    headers = ["source", "looked at", "shared", "by\nchance", "proba-\nbility", "preci-\nsion",
               "recall"]
    say(tabulate(rows, headers=headers, disable_numparse=True,
                 colalign=("left", "left", *["right"] * 5)))
    notes = [f"{m.source} cannot be asked: {m.missing}." for m in matches if m.missing]
    for note in (*notes, verdict(matches)):
        say("\n" + textwrap.fill(note, terminal_width()))
