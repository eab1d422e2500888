"""The command `nerp`. A command is a module in `nerp.commands`, imported when it is called."""

import argparse
import contextlib
import gc
import os
import shlex
import shutil
import signal
import sys
from typing import NoReturn

from nerp.base.errors import NerpError
from nerp.base.log import command_line
from nerp.base.printable import broken, complain
from nerp.commands import HelpFormatter, add_arguments, command_module, parse
from nerp.files.opening import is_out_of_memory, last_opened, reason

COMMANDS = {
    "demo": "train MMRL on base classes, test on base and novel, correct with NeRP; no downloads",
    "train": "train a method on a dataset",
    "test": "test a checkpoint, corrected with NeRP if the trainer's name ends in _NeRP",
    "predict": "classify images with a trained model, with no dataset on disk",
    "sweep": "run a whole experiment, on GPUs here or on a SLURM cluster",
    "table": "put the results of runs into a table: terminal, Markdown, CSV or LaTeX",
    "plot": "draw few-shot curves, base against novel accuracy, and what NeRP gains",
    "explain": "write one HTML page about a corrected run: what was flipped, and why",
    "data": "list, download and check the datasets, and compute their reference images",
    "methods": "list the methods with their learned parameters and papers",
    "backbones": "list the backbones with their sizes, weights and the methods that fit",
    "config": "list the configuration keys, or show a run's values and where they come from",
    "export": "write a trained model for other programs: class weights, or ONNX",
    "features": "write a model's image and text features of a split, for probes and plots",
    "pairs": "mine class pairs for NeRP, or audit where a bundle's pairs may come from",
    "correct": "put every rule side by side on a run's saved logits, without a model",
    "sweep-nerp": "apply NeRP with many settings to saved logits, without a model",
    "study": "measure NeRP where the true class frequencies are known, on the drawn world",
    "bench-data": "measure how many images per second the loaders deliver",
    "completion": "print the code that makes bash or zsh complete nerp's command lines",
}
INTERRUPTED = 130

# Idle OpenMP threads sleep instead of spinning: if runs share cores, spinning multiplies a small
# model's training time by up to fifty. Torch reads the variable when it is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Importing torch and open_clip makes 400,000 objects that stay. By default Python looks for garbage
# after every 700 new objects, which takes a fifth of the import's time.
gc.set_threshold(50_000)


def main(argv: list[str] | None = None) -> None:
    """Run a command line and exit; status 0: done, 1: a user's mistake, 130: interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def _interrupt(*_: object) -> None:
    """Handle Ctrl-C. The first one ends a command in an orderly way; a second one ends the process
    at once, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def run(argv: list[str]) -> int:
    """`main` without the exit: returns the status."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        try:
            print(_overview(), flush=True)
        except BrokenPipeError:
            _forget_output()  # its reader has gone
        return 0 if argv else 1
    if argv[0] == "--version":
        from nerp import __version__

        print(f"nerp {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        from nerp.base.registry import unknown

        complain(f"error: {unknown('command', argv[0], COMMANDS)}")
        return 1
    name, rest = argv[0], argv[1:]
    module = command_module(name)
    parser = _Parser(
        prog=f"nerp {name}", description=module.__doc__,
        formatter_class=HelpFormatter,
    )
    add_arguments(parser, module)
    debug = "--debug" in rest
    asked = command_line.set(shlex.join(["nerp", *argv]))
    try:
        args = parse(parser, rest)
        if args.imports:
            from nerp.base.plugins import import_modules

            import_modules(args.imports)
        status = module.main(args) or 0
        sys.stdout.flush()  # so that a full disk is noticed here
        return status
    except KeyboardInterrupt:
        if debug:
            raise
        complain("interrupted; the same command continues where it can")
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()  # its reader has gone
        return 0
    except Exception as error:
        if debug:
            raise
        complain(f"error: {NerpError(_line(error))}")
        if isinstance(error, OSError):
            _forget_output()
        return 1
    finally:
        command_line.reset(asked)


def _line(error: Exception) -> str:
    """The text of an error in one line. A NerpError has its own words; any other error is shown
    with its type and the file that was read last."""
    text = str(error).strip()
    if "\nOriginal Traceback" in text:  # from a process that loads images: what it raised is last
        _, _, text = text.splitlines()[-1].partition(": ")
    if isinstance(error, NerpError) or (isinstance(error, OSError) and text):
        return text
    if is_out_of_memory(error):
        return (f"out of memory ({reason(error)}); smaller batches need less: "
                "DATALOADER.TEST.BATCH_SIZE, DATALOADER.TRAIN_X.BATCH_SIZE, and "
                "DATALOADER.CACHE_MB for images that are kept decoded")
    file = last_opened()
    where = f" after reading {file}" if file else ""
    return f"{type(error).__name__}{where}: {reason(error)}; --debug shows where it is from"


def _forget_output() -> None:
    """Keep the interpreter from complaining at exit about output that could not be written."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):  # ValueError: standard output has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in a command line in one line, as the package reports other mistakes."""

    def error(self, message: str) -> NoReturn:
        raise NerpError(f"{message}; {self.prog} --help says what there is")


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    columns = shutil.get_terminal_size((100, 0)).columns
    return "\n".join(
        ["usage: nerp COMMAND ...", "",
         broken("Train prompt-learned CLIP models and correct their asymmetric confusions with "
                "NeRP.", columns, 0), "",
         *(broken(line, columns, width + 4) for line in lines), "", "nerp help COMMAND says more."]
    )
