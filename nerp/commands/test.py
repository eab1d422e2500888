"""Test a checkpoint on a dataset; a trainer called <method>_NeRP also corrects the predictions."""

from nerp.commands.common import add_run_arguments, add_test_arguments, request


def add_arguments(parser):
    add_run_arguments(parser)
    add_test_arguments(parser)


def main(args):
    from nerp.engine.log import say_on_terminal
    from nerp.engine.run import EvaluationFlags, run_test

    say_on_terminal()
    run_test(
        request(args),
        EvaluationFlags(
            model_dir=args.model_dir,
            load_epoch=args.load_epoch,
            save_logits=args.save_logits,
            overwrite=args.overwrite,
        ),
    )
