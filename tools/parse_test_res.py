#!/usr/bin/env python3
"""Average the results in log files over seeds, as users of CoOp's family of repositories do.

  python tools/parse_test_res.py output/base2new/train_base/eurosat/shots_16/MMRL/vit_b16
  python tools/parse_test_res.py DIR --test-log
  python tools/parse_test_res.py DIR --test-log --multi-exp

DIR holds one folder per seed (seed1, seed2, ...), each with a log.txt. With --multi-exp it holds
several such DIRs. The last result block of a log is used; without --test-log it must come after
"Finish training". `nerp table` makes whole tables and lists missing results.
"""

import argparse
import re
import statistics
import sys
from pathlib import Path

FINISHED = "Finish training"


def read_log(path: Path, keyword: str, test_log: bool) -> float | None:
    """The number, in percent, of the last line "* keyword: N%"; None if there is none."""
    pattern = re.compile(rf"\* {re.escape(keyword)}: ([\d.]+)%")
    found = None
    counts = test_log
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.strip() == FINISHED:
            counts = True
        elif counts and (match := pattern.search(line)):
            found = float(match[1])
    return found


def parse_experiment(directory: Path, keyword: str, test_log: bool, ci95: bool) -> float | None:
    """The mean over the seeds, None if there is no number. Prints each seed's number, the mean and
    the spread.

    The spread is the population standard deviation, or half the width of the 95 % confidence
    interval, 1.96 standard deviations over the square root of the number of seeds.
    """
    print(f"Parsing files in {directory}")
    values = []
    seeds = (folder for folder in directory.iterdir() if folder.is_dir())
    logs = sorted((folder / "log.txt" for folder in seeds), key=_natural)
    for log in logs:
        value = read_log(log, keyword, test_log) if log.is_file() else None
        if value is None:
            print(f"file: {log}. {'no result' if log.is_file() else 'no such file'}")
        else:
            print(f"file: {log}. {keyword}: {value:.2f}%.")
            values.append(value)
    if not values:
        return None
    mean, spread = statistics.fmean(values), statistics.pstdev(values)
    if ci95:
        spread *= 1.96 / len(values) ** 0.5
    print("===")
    print(f"Summary of directory: {directory}")
    few = f" ({len(values)} of {len(logs)} folders)" if len(values) < len(logs) else ""
    print(f"* {keyword}: {mean:.2f}% +- {spread:.2f}%{few}")
    print("===")
    return mean


def _natural(path: Path) -> list[int | str]:
    """A sort key that puts seed2 before seed10."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(path))]


def main() -> int:
    """The exit status: 0, or 1 if a folder has no result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--ci95", action="store_true",
                        help="95 %% confidence interval instead of the standard deviation")
    parser.add_argument("--test-log", action="store_true", help="logs of tests, not of trainings")
    parser.add_argument("--multi-exp", action="store_true", help="DIR holds several experiments")
    parser.add_argument("--keyword", default="accuracy",
                        help="the line of a result block: accuracy (default), error, macro_f1")
    args = parser.parse_args()
    if not args.directory.is_dir():
        return _fail(f"{args.directory}: no such folder")
    folders = [args.directory]
    if args.multi_exp:
        folders = sorted((p for p in args.directory.iterdir() if p.is_dir()), key=_natural)
    means = {f: parse_experiment(f, args.keyword, args.test_log, args.ci95) for f in folders}
    empty = [str(folder) for folder, mean in means.items() if mean is None]
    if empty or not means:
        hint = "" if args.test_log else "; logs of tests need --test-log"
        return _fail(f"no result in {', '.join(empty) or args.directory} (DIR holds seed1/log.txt "
                     f"and so on{hint})")
    if args.multi_exp:
        overall = statistics.fmean(mean for mean in means.values() if mean is not None)
        print("Average performance")
        print(f"* {args.keyword}: {overall:.2f}%")
    return 0


def _fail(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
