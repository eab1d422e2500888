"""One run of a plan: its command line, and what it needs."""

import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One `nerp train` or `nerp test`.

    Attributes:
        directory: the folder of its files; no two runs share one.
        argv: the arguments after `nerp`.
        needs: directories of runs that must have finished before.
        card: the dataset's. inputs: further files that affect its numbers.
        root: the folder that holds the dataset's. output: the folder of all runs.
        label: the run in words.
        trainer: the method, with or without _NeRP.
        draws: determines which features a training on frozen features reads: card, shots, seed,
            classes, backbone.
    """

    directory: Path
    argv: tuple[str, ...]
    needs: tuple[Path, ...]
    card: Path
    inputs: tuple[Path, ...]
    label: str
    trainer: str
    draws: tuple[Path, int, int, str, str]
    root: str
    output: str

    @property
    def command(self) -> str:
        """The command line, quoted for a shell."""
        return shlex.join(("nerp", *self.argv))
