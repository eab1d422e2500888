"""One module a command: `add_arguments(parser)` and `main(args)`; heavy imports inside `main`."""
