"""Run an experiment: every method, dataset, seed and number of shots of a protocol. Each run starts
when the runs it needs have finished (a test after its training, NeRP after its baseline).

  nerp sweep --protocol base_to_novel --methods MMRL,MMRL_NeRP --gpus 0,1
  nerp sweep FILE.yaml --slurm partition=gpu,gpus=1,time=600
  nerp sweep status

Options that are left out are as published (configs/experiments.yaml). A FILE has the names of the
options below (`protocol: B2N`, `methods: [MMRL]`); options override it. Finished runs are skipped
and interrupted ones continue. The exit status is 0 if every run has finished."""

import argparse
import re
import shlex
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar

from nerp.commands.common import add_old_name, argument, name, terminal_width
from nerp.settings.keys import whole
from nerp.settings.options import begins_pair

if TYPE_CHECKING:
    from nerp.experiments.one_run import Run
    from nerp.experiments.selection import Selection
    from nerp.experiments.server import Program
    from nerp.experiments.sweep import Sweep
    from nerp.experiments.workers import Workers

Place = TypeVar("Place")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "nerp sweep [status] [FILE] [options] [KEY VALUE ...]"
    parser.add_argument("what", nargs="*", metavar="FILE",
                        help="a selection as a YAML file; after the word status, or with that "
                             "alone: show what is done, running, failed and waiting. KEY VALUE "
                             "pairs at the end are --options")
    parser.add_argument("--protocol", help="base_to_novel, open_world, cross_dataset or few_shot")
    several = partial(parser.add_argument, nargs="+", action="extend")
    several("--methods", type=name, metavar="NAME", help="such as MMRL,MMRL_NeRP")
    several("--datasets", type=name, metavar="CARD",
            help="such as eurosat,dtd, or files of your own: mine.yaml")
    several("--seeds", type=_numbers, metavar="N", help="such as 1,2,3")
    several("--shots", type=_numbers, metavar="N", help="such as 1,2,4,8,16")
    several("--backbones", type=name, metavar="NAME",
            help="all runs are done on each, such as ViT-B/16,ViT-B/32 (see `nerp backbones`); the "
                 "configuration is that of the backbone if one ships")
    parser.add_argument("--source", metavar="CARD", help="the dataset cross_dataset trains on")
    parser.add_argument("--phase", metavar="PHASE",
                        help="all: baselines included (default); train or test: only those runs "
                             "of the named methods")
    several("--config", type=name, metavar="[METHOD=]NAME",
            help="configs/trainers/<method>/NAME.yaml, or a file of your own such as mine.yaml, "
                 "instead of the published one; for every method, or one")
    parser.add_argument("--root", metavar="DIR", help="the data (default: data)")
    parser.add_argument("--output-dir", dest="output", metavar="DIR",
                        help="the runs (default: output)")
    add_old_name(parser, "--output", "output")
    several("--options", metavar="KEY VALUE",
            help="configuration values for every run, such as OPTIM.MAX_EPOCH 5")
    parser.add_argument("--save-logits", action="store_true", default=None,
                        help="each test leaves predictions.npz, which nerp explain and nerp "
                             "sweep-nerp read")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpus", default="", metavar="N,N",
                       help="devices, one per run (default: runs share what this command sees)")
    where.add_argument("--slurm", metavar="KEY=VALUE,...",
                       help="as jobs of a cluster, with sbatch's long options: "
                            "partition=gpu,gpus=1,time=600")
    parser.add_argument("--runs-at-once", type=argument(whole(1, 1)), default=1, metavar="N",
                         help="runs at once on each of --gpus, or in total without it (default: 1)")
    parser.add_argument("--runs-per-job", type=argument(whole(1, 1)), default=1, metavar="N",
                        help="with --slurm: put up to N runs that are ready into one job")
    where.add_argument("--here", action="store_true",
                       help="one run after the other, with its output, up to the first that fails")
    parser.add_argument("--fresh", action="store_true",
                        help="start Python anew for every run, instead of forking a process that "
                             "has everything imported")
    parser.add_argument("--dry-run", action="store_true", help="print the command lines only")


def main(args: argparse.Namespace) -> int:
    from nerp.experiments.plan import plan, shared_epochs

    if looking := args.what[:1] == ["status"]:
        del args.what[0]
    selection = _selection(args, looking)
    if looking:
        from nerp.experiments.status import overview, remembered

        print(overview(plan(selection) if selection.protocol else remembered(
            selection.output, selection.root, selection.imports)))
        return 0
    runs = plan(selection)
    if args.dry_run:
        for run in runs:
            print(run.command)
        if said := shared_epochs(runs):
            print(said, file=sys.stderr)  # standard output has only command lines
        return 0
    done = _here(args, runs) if args.here else _sweep(args, selection, runs)
    if done and not args.here:
        print(f"Next: nerp table {shlex.quote(selection.output)}")
    return 0 if done else 1


def _numbers(text: str) -> str:
    if not re.fullmatch(r"[\d, ]+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: it takes whole numbers, such as 1,2,3")
    return text


def _selection(args: argparse.Namespace, looking: bool) -> "Selection":
    from dataclasses import fields
    from itertools import takewhile

    from nerp.base.errors import NerpError
    from nerp.experiments.selection import Selection, parse, read_selection

    files = list(takewhile(lambda word: not begins_pair(word), args.what))
    if pairs := args.what[len(files):]:
        args.options = [*(args.options or []), *pairs]
    if len(files) > 1:
        raise NerpError(f"one selection file at a time, not {' '.join(files)}")
    given = {field.name: getattr(args, field.name) for field in fields(Selection)}
    given = {name: value for name, value in given.items() if value is not None}
    typed = parse(given, "command line")
    read = read_selection(files[0], typed.get("imports", ())) if files else {}
    chosen = {**read, **typed}
    if "protocol" not in chosen and not looking:
        raise NerpError("which experiment? --protocol base_to_novel, open_world, cross_dataset "
                        "or few_shot, or a FILE that says so")
    return Selection(**{"protocol": "", **chosen})


def _sweep(args: argparse.Namespace, selection: "Selection", runs: "list[Run]") -> bool:
    from pathlib import Path

    from nerp.base.beside import make_folder
    from nerp.experiments.plan import check_data
    from nerp.experiments.status import FOLDER
    from nerp.experiments.workers import Local, Slurm

    check_data(selection.root, runs)
    if args.slurm:
        folder = make_folder(Path(selection.output) / FOLDER / "slurm", selection.output)
        slurm = Slurm(_program(args), args.slurm, folder, args.runs_per_job)
        return _drive(slurm, selection, runs)
    gpus = (gpu for gpu in args.gpus.split(",") if gpu)
    return _drive(Local(_program(args), gpus, args.runs_at_once), selection, runs)


def _drive(workers: "Workers[Place]", selection: "Selection", runs: "list[Run]") -> bool:
    from tqdm import tqdm

    from nerp.base.printable import fitted
    from nerp.experiments.status import remember
    from nerp.experiments.sweep import Sweep

    remember(selection)
    _end_on_signals()
    # The whole text of the bar is its description, which is cut to fit.
    with tqdm(bar_format="{desc}", disable=None, leave=False) as bar:
        shown = [0.0]

        def tell(line: str) -> None:
            tqdm.write(fitted(line, sys.stdout))
            sys.stdout.flush()

        def look() -> None:
            now = time.monotonic()
            if not bar.disable and now - shown[0] > 1:
                shown[0] = now
                bar.set_description_str(_under_way(sweep)[: terminal_width() - 1])

        sweep = Sweep(runs, workers, tell, look, announce=bar.disable)
        return sweep.run()


def _here(args: argparse.Namespace, runs: "list[Run]") -> bool:
    from nerp.experiments.server import Server
    from nerp.experiments.sweep import at_terminal

    _end_on_signals()
    return at_terminal(runs, Server(_program(args)), lambda line: print(line, flush=True))


def _program(args: argparse.Namespace) -> "Program":
    from nerp.commands import forked

    return forked.FRESH if args.fresh else forked.FORKED


def _under_way(sweep: "Sweep[Place]") -> str:
    """One line: the number of finished runs, the time left, the latest run and its last output."""
    from nerp.base.printable import duration
    from nerp.experiments.sweep import current_epoch

    parts, left = [f"{len(sweep.state)}/{len(sweep.runs)}"], sweep.time_left()
    if left is not None:
        parts.append(f"{duration(left)} left")
    if sweep.active:
        latest = sweep.active[-1]
        epoch = current_epoch(latest)
        parts.append(f"{epoch and f'{epoch}, '}{latest.label}")
    return " | ".join(parts)


def _end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end a sweep in order, as Ctrl-C does; only once, so that a second
    signal does not interrupt this. SIGINT is set too: a shell that starts a sweep in the background
    lets it be ignored."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        numbers.append(signal.SIGHUP)

    def interrupt(*_: object) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)
