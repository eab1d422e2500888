"""The Dockerfile: hadolint has nothing against it, and its steps, carried out in a Debian root,
leave an environment whose entry point is nerp."""

import fnmatch
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
MIRROR = "http://deb.debian.org/debian"
# Our own environment, whose packages pip finds installed instead of fetching gigabytes.
PACKAGES = "/opt/of-the-tests"


def instructions(text):
    """[(FROM, RUN ..., what stands after it)], continued lines as one, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [tuple(line.split(" ", 1)) for line in joined.splitlines() if line.strip()]


STEPS = instructions((REPO / "Dockerfile").read_text())


def taken(path):
    """Whether .dockerignore leaves a file of the repository, the last rule that fits deciding."""
    kept = True
    for rule in (REPO / ".dockerignore").read_text().splitlines():
        pattern = rule.lstrip("!")
        if rule and not rule.startswith("#"):
            places = [path, *map(str, Path(path).parents)]
            fits = any(fnmatch.fnmatchcase(place, pattern.removeprefix("**/")) or
                       fnmatch.fnmatchcase(Path(place).name, pattern.removeprefix("**/"))
                       and pattern.startswith("**/") for place in places)
            kept = rule.startswith("!") if fits else kept
    return kept


def test_hadolint_has_nothing_against_it():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not hadolint:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_image_is_built_from_is_there_and_little_else():
    copied = list(filter(taken, git_files()))
    tops = {path.split("/")[0] for path in copied}
    assert tops == {"LICENSE", "README.md", "configs", "datasets", "nerp", "pyproject.toml",
                    "scripts"}
    scripts = [path for path in copied if path.startswith("scripts")]
    assert scripts == ["scripts/lib/constraints.txt"]


@pytest.fixture
def root(tmp_path):
    """An unpacked Debian of the release that the image starts from."""
    if os.getuid() or not shutil.which("debootstrap"):
        pytest.skip("needs root and debootstrap")
    (base,) = [rest for word, rest in STEPS if word == "FROM"]
    release = re.fullmatch(r"debian:(\w+)-slim", base)[1]
    folder = tmp_path / "root"
    subprocess.run(["debootstrap", "--variant=minbase", release, folder, MIRROR], check=True,
                   timeout=1500, stdout=subprocess.DEVNULL)
    return folder


@pytest.mark.slow
def test_its_steps_make_an_environment_with_nerp(root):
    carry_out(root)


def carry_out(root):
    """The Dockerfile's steps in a root; then its entry point with its usual argument."""
    for name in ("resolv.conf", "pip.conf"):
        if Path("/etc", name).exists():
            shutil.copy(f"/etc/{name}", root / "etc" / name)
    site = next(path for path in sys.path if path.endswith("site-packages")
                and Path(path, "torch").is_dir())
    subprocess.run(["cp", "-a", "--link", site, f"{root}{PACKAGES}"], check=False)
    if not (root / PACKAGES[1:] / "torch").is_dir():  # another file system takes no links
        shutil.copytree(site, f"{root}{PACKAGES}", dirs_exist_ok=True)
    bundle = ssl.get_default_verify_paths().cafile or ssl.get_default_verify_paths().openssl_cafile
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                   "PYTHONPATH": PACKAGES,
                   **{key: value for key, value in os.environ.items()
                      if key.startswith("PIP_") or key.lower().endswith("_proxy")}}
    if Path(bundle).is_file():  # which may name a proxy's authority besides
        shutil.copy(bundle, root / "opt/authorities.pem")
        environment["PIP_CERT"] = "/opt/authorities.pem"
    place, entry, usual = "/", None, None
    for word, rest in STEPS:
        if word == "RUN":
            inside(root, environment, place, ["/bin/sh", "-c", rest])
        elif word == "ENV":
            name, _, value = rest.partition("=")
            environment[name] = value.replace("$PATH", environment["PATH"])
        elif word == "WORKDIR":
            place = rest
            (root / place[1:]).mkdir(exist_ok=True)
        elif word == "COPY":
            source, target = rest.split()
            assert source == "."
            for path in filter(taken, git_files()):
                to = root / target[1:] / path
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPO / path, to)
        elif word == "ENTRYPOINT":
            entry = json.loads(rest)
        elif word == "CMD":
            usual = json.loads(rest)
        else:
            assert word == "FROM"
    assert inside(root, environment, place, [*entry, *usual]).startswith("usage: nerp COMMAND")
    shown = inside(root, environment, place, [*entry, "config", "show", "--trainer", "MMRL",
                                              "--dataset", "eurosat"])
    assert "DATASET.NAME: EuroSAT" in shown  # configurations and cards are in the image


def inside(root, environment, place, command):
    done = subprocess.run(
        ["chroot", root, "/usr/bin/env", "-i", "-C", place,
         *(f"{name}={value}" for name, value in environment.items()), *command],
        capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def git_files():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                            cwd=REPO, capture_output=True, text=True, check=True).stdout
    return [path for path in listed.split("\n") if path and (REPO / path).is_file()]
