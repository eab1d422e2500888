"""`nerp explain`: a page that fetches nothing, whose numbers are those of the saved arrays."""

import base64
import io
import json
import math
import re
import shlex
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from explained import IMAGE_PRIOR, NAMES, TEXT_PRIOR, Page, few_classes, make_run
from PIL import Image

from nerp.correction.correction import MARGIN, PROB, Correction, CorrectionRule
from nerp.engine.metrics import confidence
from nerp.results.explain import KINDS, Explanation, _reasons, fair_sample


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), few_classes())


@pytest.fixture
def explain(nerp, tmp_path):
    """Run the command: the page's HTML and what was printed."""

    def call(directory, *flags):
        status, text, error = nerp("explain", directory, "--output", tmp_path / "page.html", *flags)
        assert status == 0, error
        return (tmp_path / "page.html").read_text(encoding="utf-8"), text

    return call


def saved(run):
    """The predictions before and after, the labels, and the flips' kinds, by plain counting."""
    z = np.load(run / "predictions.npz")
    before, after = z["logits"].argmax(1).tolist(), z["corrected_logits"].argmax(1).tolist()
    labels = z["labels"].tolist()
    kinds = Counter("helped" if a == y else "hurt" if b == y else "neutral"
                    for b, a, y in zip(before, after, labels, strict=True) if a != b)
    assert all(kinds[kind] for kind in KINDS)  # the run has all there is to show
    return before, after, labels, kinds


def fetched(page):
    return [value for _, attributes in page.tags for name, value in attributes.items()
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
            and not value.startswith(("data:image/", "#"))]


def test_the_page_fetches_nothing(run, explain):
    html, _ = explain(run)
    page = Page(html)
    assert fetched(page) == []
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert "url(" not in html and "@import" not in html
    assert not re.search(r"https?:|fetch\(|XMLHttp|import\(", html)


def test_names_and_paths_are_text_whatever_they_hold(run, explain):
    html, _ = explain(run)
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1  # the page's own
    assert "<script>alert" not in html and "<b>" not in html
    for name in NAMES:
        assert name in [row[0] for row in page.table("All classes, most gained")]
    titles = [attributes.get("title") for tag, attributes in page.tags if tag == "th"]
    assert set(NAMES) <= set(titles)
    assert re.search(r"a&b/<b>\d+</b>\.png", page.text)
    known = {"class", "style", "title", "scope", "id", "href", "alt", "src", "width", "height",
             "loading", "decoding", "role", "tabindex", "lang", "charset", "name", "content",
             "viewbox", "x", "y", "d"}
    assert all(name in known or name.startswith("aria-")
               for _, attributes in page.tags for name in attributes)


def test_counts_are_those_of_the_saved_arrays(run, explain):
    before, after, labels, kinds = saved(run)
    html, printed = explain(run)
    page, n = Page(html), len(labels)
    right = [sum(p == y for p, y in zip(x, labels, strict=True)) for x in (before, after)]
    flips = sum(kinds.values())
    sentence = (
        f"accuracy went from {100 * right[0] / n:.2f} % to {100 * right[1] / n:.2f} % "
        f"({100 * (right[1] - right[0]) / n:+.2f} points). It changed {flips} of {n} predictions: "
        f"{kinds['helped']} became right (helped), {kinds['hurt']} became wrong (hurt) and "
        f"{kinds['neutral']} went from one wrong class to another (neutral)"
    ).replace("-", "−")
    assert sentence in page.text and sentence in " ".join(printed.split())

    cells = [Counter(zip(labels, x, strict=True)) for x in (before, after)]
    for i, row in enumerate(page.table("Before")):
        assert row == [NAMES[i], *(str(cells[0][i, j] or "") for j in range(5))]
    for i, row in enumerate(page.table("After")):
        for j, text in enumerate(row[1:]):
            count, change = cells[1][i, j], cells[1][i, j] - cells[0][i, j]
            wanted = f"{count} {change:+}".replace("-", "−") if change else str(count or "")
            assert text == wanted, (i, j)

    of_pair = Counter((b, a) for b, a in zip(before, after, strict=True) if a != b)
    rows = page.table("The most flipped pairs")
    assert [int(row[2]) for row in rows] == sorted(of_pair.values(), reverse=True)
    for source, target, count, helped, hurt, neutral, _, gap in rows:
        i, j = NAMES.index(source), NAMES.index(target)
        there = [y for b, a, y in zip(before, after, labels, strict=True) if (b, a) == (i, j)]
        assert [int(x) for x in (count, helped, hurt, neutral)] == [
            of_pair[i, j], there.count(j), there.count(i),
            sum(y not in (i, j) for y in there),
        ]
        wanted = TEXT_PRIOR[i] - TEXT_PRIOR[j] + IMAGE_PRIOR[i] - IMAGE_PRIOR[j]
        assert float(gap.replace("−", "-")) == pytest.approx(wanted, abs=0.006)

    for name, images, first, second, gained, *predicted in page.table("All classes, most gained"):
        c = NAMES.index(name)
        assert int(images) == labels.count(c)
        hits = [sum(p == y == c for p, y in zip(x, labels, strict=True)) for x in (before, after)]
        shown = [f"{100 * h / int(images):.2f} %" if int(images) else "–" for h in hits]
        assert [first, second] == shown
        assert int(gained.replace("−", "-")) == hits[1] - hits[0]
        assert [int(x) for x in predicted] == [before.count(c), after.count(c)]

    confused = page.table("The most confused pairs")
    for first, second, *counts in confused:
        i, j = NAMES.index(first), NAMES.index(second)
        assert [int(x) for x in counts[:4]] == [cells[0][i, j], cells[0][j, i],
                                                cells[1][i, j], cells[1][j, i]]
    sums = [int(row[2]) + int(row[3]) for row in confused]
    assert sums == sorted(sums, reverse=True) and sum(sums) == n - right[0]


def test_reliability_before_and_after_is_drawn_from_the_saved_arrays(run, explain):
    html, _ = explain(run)
    z = np.load(run / "predictions.npz")
    for when, name in (("Before", "logits"), ("After", "corrected_logits")):
        found = confidence(z[name], z["labels"])
        assert f"<strong>{when}</strong>: ECE {100 * found['ece']:.2f}\u202f%" in html
    drawn = re.findall(r"<title>(\d+) images: sure", html)
    assert sum(map(int, drawn)) == 2 * len(z["labels"])


def test_asymmetry_stands_beside_what_chance_gives(run, explain):
    before, after, labels, _ = saved(run)
    (rows,) = (rows for rows in Page(explain(run)[0]).tables.values()
               if rows[0][-1] == "chance alone")
    for (name, *numbers), predictions in zip(rows[1:], (before, after), strict=True):
        cells = Counter(zip(labels, predictions, strict=True))
        pairs = [(cells[i, j], cells[j, i]) for i in range(5) for j in range(i)]
        total = sum(a + b for a, b in pairs)
        expected = sum(math.comb(a + b, k) * abs(2 * k - a - b) / 2 ** (a + b)
                       for a, b in pairs for k in range(a + b + 1))
        confused = sum(a + b > 0 for a, b in pairs)
        assert numbers == [str(total), str(confused),
                           f"{sum(abs(a - b) for a, b in pairs) / total:.3f}",
                           f"{expected / total:.3f}"], name


def test_each_shown_flip_gives_its_probabilities_and_reasons(run):
    z = np.load(run / "predictions.npz")
    facts = Explanation(run)
    shown = facts.sample(facts.effect["flips"])
    assert len(shown) == facts.effect["flips"]
    place = {path: i for i, path in enumerate(z["paths"].tolist())}
    seen = set()
    for flip in shown:
        image = place[flip.path]
        logits = z["logits"][image].astype(float)
        p = np.exp(logits) / np.exp(logits).sum()
        i, j = NAMES.index(flip.source), NAMES.index(flip.target)
        assert (i, j) == (logits.argmax(), z["corrected_logits"][image].argmax())
        assert NAMES.index(flip.truth) == z["labels"][image]
        assert (flip.p_source, flip.p_target) == pytest.approx((p[i], p[j]), rel=1e-4)
        assert flip.margin == pytest.approx(logits[i] - logits[j], abs=1e-4)
        assert flip.gap == pytest.approx(TEXT_PRIOR[i] - TEXT_PRIOR[j] + IMAGE_PRIOR[i]
                                         - IMAGE_PRIOR[j])
        entropy = -(p * np.log(p)).sum()
        wanted = [f"margin {flip.margin:.2f} ≤ 1.5"] * bool(flip.margin <= 1.5)
        wanted += [f"entropy {entropy:.2f} ≥ 1.3"] * bool(entropy >= 1.3)
        assert flip.reasons == wanted
        seen.add(tuple(reason.split()[0] for reason in wanted))
    assert seen == {("margin",), ("entropy",), ("margin", "entropy")}


def test_a_correction_without_a_bias_shows_what_it_takes_off_on_average(explain, tmp_path):
    run = make_run(tmp_path / "run", few_classes(), options=["NERP.RULE", "transport"])
    html, _ = explain(run)
    assert "lowered, on average over the images, less the mean" in html
    z = np.load(run / "predictions.npz")
    lowered = (z["logits"].astype(float) - z["corrected_logits"]).mean(0)
    facts = Explanation(run)
    assert facts.parts == {}
    np.testing.assert_allclose(facts.preference, lowered - lowered.mean(), atol=1e-5)


def test_a_rule_of_ones_own_names_its_reasons(run):
    @dataclass(frozen=True)
    class Own(CorrectionRule):
        name = "own"
        note = "as it likes"

        @classmethod
        def from_config(cls, node, strengths):
            return cls()

        def correct(self, logits, priors, pairs):
            return Correction.none(logits)

    assert _reasons(Own(), MARGIN | PROB, 0.5, 1.0, 0.2, 0.6) == ["margin", "probability"]


def test_reasons_add_up_to_the_flips(run, explain):
    *_, kinds = saved(run)
    rows = Page(explain(run)[0]).table("By the signs")
    assert {row[0] for row in rows} == {"margin", "entropy", "margin and entropy"}
    wanted = [sum(kinds.values()), *(kinds[kind] for kind in KINDS)]
    assert [sum(int(row[k]) for row in rows) for k in (1, 2, 3, 4)] == wanted


@pytest.mark.parametrize("looked_at, word", [
    ("test images", "Transductive:"), ("test labels", "Upper bound:"),
    ("unknown", "Unknown origin:"),
])
def test_pairs_that_may_have_seen_test_data_are_marked_before_any_number(
    tmp_path, explain, looked_at, word
):
    page = Page(explain(make_run(tmp_path / "run", few_classes(), looked_at=looked_at))[0])
    assert page.text.index(word) < page.text.index("accuracy went from")


def test_pairs_that_have_seen_no_test_data_bear_no_mark(run, explain):
    text = Page(explain(run)[0]).text
    assert not re.search("transductive|upper bound|unknown origin", text, re.IGNORECASE)


def pictures(page):
    return [a for tag, a in page.tags if tag == "img" and a["src"].startswith("data:image/jpeg")]


def test_pictures_are_taken_from_where_root_says_and_missing_ones_are_counted(
    run, explain, tmp_path
):
    page = Page(explain(run, "--most", "30", "--root", tmp_path)[0])
    assert pictures(page) == [] and page.text.count("no image") == 30
    assert "30 of these 30 images were not found" in page.text

    there = tmp_path / "eurosat" / "2750" / "plain"
    there.mkdir(parents=True)
    for i in range(0, 400, 2):
        Image.new("RGB", (300, 200), (i % 255, 90, 90)).save(there / f"{i}.png")
    flips = Explanation(run, str(tmp_path)).sample(30)
    even = sum(flip.path.startswith("plain/") for flip in flips)
    assert 0 < even < 30
    victim = next(flip.path for flip in flips if flip.path.startswith("plain/"))
    (there.parent / victim).write_bytes(b"not an image")
    html, printed = explain(run, "--most", "30", "--root", tmp_path)
    page = Page(html)
    assert len(pictures(page)) == even - 1 and all(a["alt"] for a in pictures(page))
    assert f"{31 - even} of these 30 images were not found" in page.text
    assert f"{31 - even} of 30 images were not found" in printed and "--root" in printed


def test_a_sample_gives_each_kind_an_equal_share_and_spreads_it():
    kind = np.array([0] * 50 + [1] * 4 + [2] * 20)
    chosen = fair_sample(kind, 24)
    assert Counter(kind[chosen].tolist()) == {0: 10, 1: 4, 2: 10}
    assert chosen[:10].tolist() == list(range(0, 50, 5))
    assert sorted(fair_sample(kind, 1000)) == list(range(74))
    assert len(fair_sample(kind, 0)) == len(fair_sample(kind[:0], 9)) == 0


@pytest.mark.parametrize("most", [0, 7])
def test_no_more_flips_are_shown_than_asked_for(run, explain, most):
    tags = Page(explain(run, "--most", most)[0]).tags
    assert sum(a.get("class") in KINDS for tag, a in tags if tag == "li") == most


def test_the_sign_test_is_the_binomials(run):
    facts = Explanation(run)
    helped, hurt = facts.effect["helped"], facts.effect["hurt"]
    n, least = helped + hurt, min(helped, hurt)
    wanted = 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    assert facts.sign_test == pytest.approx(min(1, wanted), rel=1e-9)


def test_a_thousand_classes_stay_small_and_readable(tmp_path, explain):
    rng = np.random.default_rng(1)
    labels = np.arange(2000) % 1000
    logits = rng.normal(0, 1, (2000, 1000)).astype(np.float32)
    logits[np.arange(2000), labels] += 3.5
    arrays = {"names": [f"a long class name, number {i}" for i in range(1000)], "labels": labels,
              "logits": logits, "text": rng.normal(0, 1, 1000), "image": rng.normal(0, 1, 1000),
              "pairs": [(i, (i + step) % 1000) for i in range(1000) for step in range(1, 40)],
              "paths": [f"{i}.png" for i in range(2000)]}
    html, _ = explain(make_run(tmp_path / "run", arrays))
    page = Page(html)
    assert len(html) < 700_000
    assert len(page.table("All classes, in label order")) == 1000
    assert len(page.table("The 15 most and the 15 least")) == 31  # and the line between
    assert "The most flipped pairs (20 of " in page.text
    assert max(len(row) for rows in page.tables.values() for row in rows) < 12  # no matrix
    assert fetched(page) == []


def test_confusions_taken_away_and_added_are_seen_where_neighbours_exchange_them(
    tmp_path, explain
):
    """Of 130 classes two share a cell; every image moves from the one to the other."""
    labels = np.repeat(np.arange(130), 6)
    taken_for = (labels // 2 * 2 + 2) % 130
    logits = np.zeros((780, 130))
    logits[np.arange(780), taken_for], logits[np.arange(780), taken_for + 1] = 5, 4.5
    arrays = {"names": [f"class {i}" for i in range(130)], "labels": labels, "logits": logits,
              "text": np.tile([3.0, 0.0], 65), "image": np.zeros(130),
              "pairs": [(i, i + 1) for i in range(0, 130, 2)],
              "paths": [f"{i}.png" for i in range(780)]}
    page = Page(explain(make_run(tmp_path / "run", arrays))[0])
    text = page.text
    assert "It changed 780 of 780 predictions" in text
    assert "780 images taken for another class, 12 in the strongest cell" in text
    assert "780 of them the correction put elsewhere" in text
    assert "Added: 780 images" in text and "have one scale, holds 12" in text
    cells = {((i // 2), (i // 2 + 1) % 65) for i in range(130)}
    for attributes in (a for tag, a in page.tags if tag == "img"):
        data = base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))
        alpha = np.array(Image.open(io.BytesIO(data)))[..., 3]
        assert alpha.shape == (65, 65)
        assert {(i, j) for i, j in np.argwhere(alpha).tolist()} == cells
        assert alpha.max() == 255


def test_a_correction_that_flips_nothing_says_so(tmp_path, explain):
    page = Page(explain(make_run(tmp_path / "run", few_classes(), options=["NERP.TAU", "1e9"]))[0])
    assert "changed none of the 400 predictions" in page.text
    assert page.text.count("No prediction was flipped.") == 2


def test_harm_is_called_harm(tmp_path, explain):
    arrays = few_classes()
    arrays["logits"][np.arange(400), arrays["labels"]] += 1.5
    arrays |= {"text": [10, 5, 0, -5, -10], "pairs": [(0, 1), (0, 2), (0, 3)]}
    html, printed = explain(make_run(tmp_path / "run", arrays, options=["NERP.THRES", "5"]))
    assert "the correction did harm" in html and "the correction did harm" in printed


@pytest.mark.parametrize("command", ["explain", "sweep-nerp"])
def test_a_run_without_logits_says_the_command_that_leaves_them(command, nerp, run, tmp_path):
    record = json.loads((run / "result.json").read_text())
    record["command"] = "nerp test --trainer MMRL_NeRP --root 'my data' TASK B2N; rm x"
    (tmp_path / "result.json").write_text(json.dumps(record))
    arguments = ["--grid", "TAU=0"] if command == "sweep-nerp" else []
    status, _, error = nerp(command, tmp_path, *arguments)
    assert status == 1 and error.count("\n") == 1 and "predictions.npz" in error
    said = error[error.index("nerp test"):].strip()
    assert shlex.split(said) == ["nerp", "test", "--save-logits", "--trainer", "MMRL_NeRP",
                                 "--root", "my data", "TASK", "B2N;", "rm", "x"]
    assert "'B2N;'" in said  # nothing of a record is run by pasting it
    record["command"] = "python my_script.py"
    (tmp_path / "result.json").write_text(json.dumps(record))
    error = nerp(command, tmp_path, *arguments)[2]
    assert f"nerp test --save-logits --trainer {record['trainer']} --output-dir" in error


def test_a_run_that_was_not_corrected_is_one_clear_line(nerp, run, tmp_path):
    for name in ("config.yaml", "result.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    z = np.load(run / "predictions.npz")
    np.savez(tmp_path / "predictions.npz", logits=z["logits"], labels=z["labels"])
    status, _, error = nerp("explain", tmp_path)
    assert status == 1 and "no text_prior" in error and error.count("\n") == 1
    status, _, error = nerp("explain", tmp_path / "nowhere")
    assert status == 1 and "--save-logits" in error and error.count("\n") == 1
    assert not (tmp_path / "explain.html").exists()


def test_a_record_and_arrays_of_different_runs_are_refused(nerp, run, tmp_path):
    for name in ("config.yaml", "predictions.npz"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    record = json.loads((run / "result.json").read_text())
    record["nerp"]["rule"]["tau"] = 3.0
    (tmp_path / "result.json").write_text(json.dumps(record))
    status, _, error = nerp("explain", tmp_path)
    assert status == 1 and "are of different runs" in error and error.count("\n") == 1


@pytest.mark.parametrize("change", [
    {"labels": np.full(400, 5)}, {"labels": np.zeros(3, int)}, {"labels": np.zeros(400)},
    {"paths": np.array(["a.png"])}, {"classnames": np.array(["a", "b"])},
    {"corrected_logits": np.zeros((400, 2), np.float32)}, {"paths": None},
])
def test_arrays_that_do_not_agree_are_refused(nerp, run, tmp_path, change):
    for name in ("config.yaml", "result.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    arrays = dict(np.load(run / "predictions.npz")) | change
    np.savez(tmp_path / "predictions.npz", **{k: v for k, v in arrays.items() if v is not None})
    status, _, error = nerp("explain", tmp_path)
    assert status == 1 and "predictions.npz: " in error and error.count("\n") == 1
