"""What a shell proposes on Tab after `nerp completion`."""

import shutil
import subprocess

import pytest

# Asks bash's completion of the words that follow for proposals, one a line.
ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
$(complete -p nerp | sed 's/.*-F \\([^ ]*\\).*/\\1/') nerp "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The bash script in a file."""
    from nerp.commands.completion import script

    file = tmp_path_factory.mktemp("completion") / "nerp.bash"
    file.write_text(script("bash"))
    return file


@pytest.mark.parametrize(("line", "proposals"), [
    ("tra", {"train"}),
    ("he", {"help"}),
    ("help sweep", {"sweep", "sweep-nerp"}),
    ("train --tr", {"--trainer"}),
    ("train --trainer PromptS",
     {f"PromptSRC{trained}{nerp}" for trained in ("", "_SAR", "_DePT") for nerp in ("", "_NeRP")}),
    ("sweep --methods MMRL PromptSRC_N", {"PromptSRC_NeRP"}),
    ("sweep --methods MMRL,PromptSRC_N", {"MMRL,PromptSRC_NeRP"}),
    ("sweep --datasets dtd,demo_obj", {"dtd,demo_objects"}),
    ("train --trainer MMRL OPTIM.LR_", {"OPTIM.LR_SCHEDULER", "OPTIM.LR_MIN"}),
    ("train OPTIM.LR 0.1 DATASET.NUM_S", {"DATASET.NUM_SHOTS"}),
    ("export output exported USE", {"USE_CUDA"}),
    ("test --dataset demo_", {"demo_landcover", "demo_objects", "demo_textures"}),
    ("data pre", {"prepare"}),
    ("data check euro", {"eurosat"}),
    ("table --format l", {"latex"}),
    ("explain out", {"output"}),
    ("train --config-file mi", {"mine.yaml"}),
])
def test_bash_proposes_commands_options_names_and_paths(script, tmp_path, line, proposals):
    (tmp_path / "output").mkdir()
    (tmp_path / "mine.yaml").touch()
    found = subprocess.run(["bash", "-c", ASK, "ask", script, "nerp", *line.split(" ")],
                           cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == proposals


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_what_is_printed_is_code_that_the_shell_reads(nerp, shell):
    status, text, _ = nerp("completion", shell)
    assert status == 0 and "sweep-nerp" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)
