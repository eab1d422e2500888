"""What a long loop says of itself where the output is a file."""

from itertools import count

from nerp.base import progress


def test_it_says_how_far_it_is_however_long_the_first_item_takes(monkeypatch):
    said = []
    clock = count(0.0, 40.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "say", said.append)
    assert list(progress.progress("ab", "reading", 2, "file")) == ["a", "b"]
    assert said == ["reading: 1/2 file, 0.0125/s, 80 s left"]
