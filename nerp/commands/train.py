"""Train a method on a dataset, save its checkpoint, and test it on the same classes."""

from nerp.commands.common import add_overwrite_argument, add_run_arguments, request


def add_arguments(parser):
    add_run_arguments(parser)
    add_overwrite_argument(parser)


def main(args):
    from nerp.base.distributed import processes
    from nerp.base.log import say_on_terminal
    from nerp.engine.run import run_training

    with processes():
        say_on_terminal()
        run_training(request(args), overwrite=args.overwrite)
