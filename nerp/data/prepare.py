"""`nerp data prepare`: bring a benchmark's files into its folder."""

from pathlib import Path

from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.paths import holding
from nerp.data.benchmark import data_directory, dataset_folder
from nerp.data.mirror import PAGE, Mirror
from nerp.data.obtain import obtain
from nerp.data.sources import Source, amount, read_sources


def plan(cfg: CfgNode) -> list[str]:
    """What `prepare` would do, one line per source. It touches neither the network nor the disk."""
    directory = dataset_folder(cfg)
    return [_plan(source, directory) for source in read_sources(cfg)]


def prepare(cfg: CfgNode) -> bool:
    """Fetch and unpack what is missing; returns whether the dataset is then complete.

    What is already there is not touched. An archive is unpacked to a temporary folder and its files
    are moved into place when it is complete. Prints what is left for the user to do.
    """
    directory, sources = dataset_folder(cfg), read_sources(cfg)
    if not sources:
        data_directory(cfg)  # draws a procedural benchmark
        return True
    mirror = Mirror((cfg.DATASET.NAME, cfg.DATASET.DIRECTORY), sources)
    with holding(directory):
        undone = [source for source in sources if not _is_obtained(source, directory, mirror)]
    if undone:
        say("Not complete. What is left to do:")
        for source in undone:
            say(f"- {_by_hand(source, directory)}")
        say("Then run the same command again; it continues from there.")
        return False
    for source in sources:
        archive = directory / source.file
        if source.unpack and archive.is_file():
            say(f"  {archive} ({amount(archive.stat().st_size)}) is no longer needed")
    return True


def _plan(source: Source, directory: Path) -> str:
    if source.is_there(directory):
        return f"{_names(source)}: there"
    then = f", unpack {_names(source)}" if source.unpack else ""
    if source.file and (directory / source.file).exists():
        return f"{source.file}: there{then}"
    if not source.addresses and not source.mirror:
        return f"by hand: {_by_hand(source, directory)}"
    size = f" ({amount(source.size)})" if source.size else ""
    checked = f", check its {source.checksum.partition(':')[0]}" if source.checksum else ""
    ways = []
    if source.addresses:
        ways.append(f"download{size} from {' or '.join(source.addresses)}{checked}")
    if source.mirror:
        ways.append(f"download what fits in {PAGE.format(source.mirror)}")
    return f"{source.file}: {', or '.join(ways)}{then}"


def _names(source: Source) -> str:
    return ", ".join(source.results)


def _by_hand(source: Source, directory: Path) -> str:
    if source.addresses:
        return f"download {' or '.join(source.addresses)} as {directory / source.file}"
    if source.step:
        return f"{_names(source)}: {source.step}"
    return f"{_names(source)}: see what {PAGE.format(source.mirror)} has, and put it there"


def _is_obtained(source: Source, directory: Path, mirror: Mirror) -> bool:
    there = source.is_there(directory)
    try:
        if not there or source.file in source.results:  # a file is checked again: that is cheap
            obtain(source, directory, mirror)
    except (NerpError, OSError) as error:
        say(f"{source.file or _names(source)}: {error}")
        return False
    say(f"{_names(source)}: {'there' if there else 'done'}")
    return True
