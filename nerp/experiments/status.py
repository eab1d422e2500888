"""The state of the sweeps below a folder: which runs are done, running, failed and still to do."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from tabulate import tabulate

from nerp.base.errors import NerpError
from nerp.base.paths import write_text
from nerp.experiments.attempt import LOG_FILE, STATES, state
from nerp.experiments.one_run import Run
from nerp.experiments.plan import plan
from nerp.experiments.selection import Selection, read_selection
from nerp.experiments.sweep import current_epoch, reason
from nerp.settings.protocols import protocol

_NOT_SAID = ("output", "root")  # a selection file does not contain these
FOLDER = "sweeps"  # below the output folder: one file per selection that was started


def remember(selection: Selection) -> Path:
    """Keep a selection for `nerp sweep status`, as a file that `nerp sweep` accepts too."""
    empty = asdict(Selection(""))
    content = {k: list(v) if isinstance(v, tuple) else v
               for k, v in asdict(selection).items() if v != empty[k] and k not in _NOT_SAID}
    text = yaml.safe_dump(content, sort_keys=False)
    name = f"{protocol(selection.protocol).name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    path = Path(selection.output) / FOLDER / f"{name}.yaml"
    write_text(path, text, selection.output)
    return path


def remembered(output: str, root: str, imports: tuple[str, ...]) -> list[Run]:
    """The runs of every selection that was started below `output`. Raises NerpError if there is
    none, and as `read_selection` does."""
    files = sorted((Path(output) / FOLDER).glob("*.yaml"))
    if not files:
        raise NerpError(f"no sweep has been started below {output}; --output-dir names another "
                        "folder")
    runs: dict[Path, Run] = {}
    for file in files:
        chosen = {"protocol": "", **read_selection(file, imports)}
        selection = replace(Selection(**chosen), output=output, root=root, imports=imports)
        runs.update((run.directory, run) for run in plan(selection))
    return list(runs.values())


def overview(runs: list[Run]) -> str:
    """Counts by method and state, and a line for each run that is running or has failed."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    lines = []
    for run in runs:
        found = state(run)
        counts[run.trainer][found] += 1
        if found == "running":
            epoch = current_epoch(run)
            lines += [f"running{epoch and f', {epoch}'}: {run.label}",
                      f"    log: {run.directory / LOG_FILE}"]
        elif found == "failed":
            lines += [f"failed: {run.label}", *reason(run)]
    counts["all"] = sum(counts.values(), Counter())
    rows = [[name, *(count[s] for s in STATES)] for name, count in counts.items()]
    return "\n".join([tabulate(rows, headers=["", *STATES]), *([""] if lines else []), *lines])
