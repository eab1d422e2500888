"""`nerp table --latex`: what stands in a paper, and that it compiles."""

import re
import shutil
import subprocess

import pytest
from recorded import BASE, complete, tables, two_datasets, write

from nerp.results.grid import MARKS
from nerp.results.latex import PACKAGES, latex
from nerp.results.layout import arranged, without_spread
from nerp.results.names import as_in_papers
from nerp.results.published import published
from nerp.settings.catalogue import methods


def corrected(folder, *, looked_at="nothing"):
    """MMRL with and without NeRP, and CoOp, on two datasets."""
    two_datasets(folder)
    for dataset, seed in BASE:
        write(folder, "MMRL_NeRP", dataset, "new", seed, 72.0, looked_at=looked_at)
        write(folder, "CoOp", dataset, "base", seed, 91.0)
        write(folder, "CoOp", dataset, "new", seed, 20.0)
    return folder


def lines(text, beginning):
    return [line for line in text.splitlines() if line.startswith(beginning)]


def test_methods_are_rows_and_a_correction_has_its_gain_below_it(tmp_path):
    (table,) = tables(corrected(tmp_path), gains=True)
    text = latex([without_spread(table)])
    labels = [line.split(" & ")[0] for line in text.splitlines() if " & " in line]
    assert labels[2:] == ["CoOp", "MMRL", "MMRL + NeRP", r"\quad $\Delta$"]
    (gain,) = lines(text, r"\quad $\Delta$")
    assert gain.split(" & ")[5] == "$+$2.00"  # of EuroSAT's novel classes, 72 - 70
    assert r"\multicolumn{3}{c}{EuroSAT}" in text and r"\cmidrule(lr){2-4}" in text


def test_datasets_may_be_rows_with_the_average_last(tmp_path):
    write(tmp_path, "CoOp", "DescribableTextures", "new", 1, 1.0)
    (table,) = tables(corrected(tmp_path), gains=True)
    text = latex([arranged(without_spread(table), rows="datasets")])
    assert [line.split(" & ")[0] for line in text.splitlines() if " & " in line][2:] == [
        "DTD", "EuroSAT", "UCF101", "Average"]
    heads = re.findall(r"multicolumn\{3\}\{c\}\{([^}]*)\}", text)
    assert heads == ["CoOp", "MMRL", "MMRL + NeRP", r"$\Delta$"]
    (row,) = lines(text, "EuroSAT")
    assert row.rstrip(" \\").split(" & ")[-2] == "$+$2.00"


def test_the_best_is_bold_and_the_second_underlined_where_three_compete(tmp_path):
    (table,) = tables(corrected(tmp_path))
    text = latex([without_spread(table)])
    (best,) = lines(text, "MMRL + NeRP")
    (second,) = lines(text, "MMRL &")
    assert best.split(" & ")[5] == r"\textbf{72.00}"
    assert second.split(" & ")[5] == r"\underline{70.00}"
    assert "Best in bold, second underlined." in text
    two = latex([without_spread(tables(two_datasets(tmp_path / "two"))[0])])
    assert "bold" not in two  # a row that is alone


def test_deviations_stand_beside_numbers_on_request(tmp_path):
    (table,) = tables(two_datasets(tmp_path))
    with_std, without = latex([table]), latex([without_spread(table)])
    assert r"92.00{\scriptsize$\pm$2.00}" in with_std
    assert r"mean $\pm$ population standard deviation over seeds 1, 2" in with_std
    assert r"\pm" not in without and "mean over seeds 1, 2" in without


def test_packages_caption_and_label_are_there(tmp_path):
    (table,) = tables(two_datasets(tmp_path))
    text = latex([table])
    assert all(f"% \\usepackage{{{name}}}" in text for name in PACKAGES)
    assert r"\caption{Base-to-novel, 16 shots. Accuracy in percent" in text
    assert r"\label{tab:base-to-novel-16-shots}" in text
    assert r"\caption{Ours \& theirs}" in latex([table], "Ours & theirs", "tab:mine")


def test_what_the_numbers_are_stands_below_where_the_caption_is_ones_own(tmp_path):
    (table,) = tables(two_datasets(tmp_path))
    said = r"Accuracy in percent, mean $\pm$ population standard deviation over seeds 1, 2."
    own = latex([table], "Ours")
    assert said not in own.split(r"\label")[0] and f"{said}\\par" in own
    assert latex([table]).count(said) == 1  # in the caption


def test_a_correction_on_a_backbone_stands_beside_its_baseline_on_that_backbone(tmp_path):
    for backbone in ("ViT-B/16", "ViT-B/32"):
        for trainer in ("CoOp", "CoOp_NeRP"):
            write(tmp_path / backbone, trainer, "EuroSAT", "new", 1, 50.0, backbone=backbone)
    (table,) = tables(tmp_path, gains=True)
    heads = {backbones: re.findall(r"multicolumn\{3\}\{c\}\{([^}]*)\}", latex(
        [arranged(table, rows="datasets", backbones=backbones)])) for backbones in ("rows",
                                                                                "columns")}
    assert heads["rows"] == heads["columns"] == [
        "CoOp (ViT-B/16)", "CoOp + NeRP (ViT-B/16)", r"$\Delta$",
        "CoOp (ViT-B/32)", "CoOp + NeRP (ViT-B/32)", r"$\Delta$"]


def test_a_correction_is_not_parted_from_its_baseline_where_columns_take_several_blocks(tmp_path):
    trainers = ("CoOp", "CoOp_NeRP", "MMRL", "MMRL_NeRP")
    for backbone in ("ViT-B/16", "ViT-B/32"):
        for trainer in trainers:
            write(tmp_path / backbone, trainer, "EuroSAT", "new", 1, 50.0, backbone=backbone)
    (table,) = tables(tmp_path, gains=True)
    text = latex([arranged(table, rows="datasets", backbones="rows")])
    blocks = [re.findall(r"multicolumn\{3\}\{c\}\{([^}]*)\}", block)
              for block in text.split(r"\begin{tabular}")[1:]]
    assert len(blocks) > 1
    for heads in blocks:
        assert len(heads) % 3 == 0  # a method, its correction, the gain
        for method, correction, gain in zip(heads[::3], heads[1::3], heads[2::3], strict=True):
            assert correction == method.replace(" (", " + NeRP (") and gain == r"$\Delta$"


def test_numbers_of_one_column_stand_in_one_and_more_across_two(tmp_path):
    (table,) = tables(two_datasets(tmp_path))
    narrow = latex([arranged(without_spread(table), rows="datasets")])
    assert r"\begin{table}" in narrow and r"\begin{table*}" not in narrow
    assert r"\begin{table*}" in latex([table])


def test_it_is_balanced_and_escaped(tmp_path):
    corrected(tmp_path, looked_at="test labels")
    text = latex(tables(tmp_path, against=published(), gains=True))
    for name in ("tabular", "table*", "adjustbox", "minipage"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") > 0
    body = re.sub(r"(?m)^%.*|\\label{[^}]*}", "", text)
    assert not re.search(r"(?<!\\)_", body) and r"\rlap{$^\ddagger$}" in body
    assert body.isascii()
    for block in re.findall(r"\\begin{tabular}{l(r+)}(.*?)\\end{tabular}", body, re.DOTALL):
        rows = [line for line in block[1].splitlines() if line.endswith(r"\\")]
        spanned = [
            line.count("&") + sum(int(n) - 1 for n in re.findall(r"multicolumn{(\d+)}", line))
            for line in rows
        ]
        assert set(spanned) == {len(block[0])}


def test_every_mark_can_be_typeset():
    from nerp.results.latex import _escape

    assert all(_escape(mark).isascii() for mark, _ in MARKS.values())


def test_names_are_those_of_papers():
    assert as_in_papers("MMRL_NeRP") == "MMRL + NeRP"
    assert as_in_papers("CoOp_SAR_NeRP (mine) + temperature") == "CoOp + SAR + NeRP (mine) + " \
        "temperature"
    assert as_in_papers("MMRLpp (ViT-B/32)") == "MMRL++ (ViT-B/32)"
    assert as_in_papers("CasPL_CoOp_NeRP") == "CoOp + CasPL + NeRP"
    assert not [name for name in methods() if "_" in as_in_papers(name)]


PAPER = r"""\documentclass[10pt,twocolumn]{article}
%s
\begin{document}
Text. %s
\end{document}
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex: Debian's texlive has it")
@pytest.mark.parametrize("rows", ["methods", "datasets"])
@pytest.mark.parametrize("std", [True, False])
def test_it_compiles_in_two_columns_and_nothing_is_too_wide(rows, std, tmp_path):
    for trainer in ("CoOp", "CoOp_NeRP", "MMRL", "MMRL_NeRP"):
        for backbone in ("ViT-B/16", "ViT-B/32"):
            complete(tmp_path / backbone, trainer, backbone=backbone)
    drawn = tables(tmp_path, gains=True, against=published())
    drawn = [arranged(table if std else without_spread(table), rows=rows) for table in drawn]
    text = latex(drawn)
    packages = "\n".join(line.removeprefix("% ") for line in lines(text, r"% \usepackage"))
    (tmp_path / "paper.tex").write_text(PAPER % (packages, text))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=tmp_path,
        capture_output=True, text=True, errors="replace", timeout=120,
    )
    assert done.returncode == 0 and (tmp_path / "paper.pdf").is_file(), done.stdout[-2000:]
    said = (tmp_path / "paper.log").read_text(errors="replace")
    assert "Overfull" not in said and "Float too large" not in said
