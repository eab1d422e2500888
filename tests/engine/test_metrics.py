"""Accuracy, macro F1, flips and asymmetry against hand counts."""

import numpy as np
import pytest

from nerp.data.benchmark import distinct
from nerp.engine.metrics import (
    accuracy_record,
    asymmetry,
    confusion_matrix,
    flip_effect,
    harmonic_mean,
    spearman,
)


def test_confusion_matrix_and_accuracy():
    labels, predicted = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    confusion = confusion_matrix(labels, predicted, 3)
    assert confusion.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    record = accuracy_record(confusion)
    assert (record["total"], record["correct"], record["accuracy"]) == (5, 3, 60.0)
    assert record["per_class_accuracy"] == [50.0, pytest.approx(200 / 3), None]
    # F1 of class 0: 2 * 1 / (2 + 2); of class 1: 2 * 2 / (3 + 3); class 2 does not occur.
    assert record["macro_f1"] == pytest.approx(100 * (0.5 + 2 / 3) / 2)


def test_flip_effect():
    labels = np.array([0, 0, 1, 2, 2])
    before, after = np.array([1, 0, 1, 0, 2]), np.array([0, 1, 1, 1, 2])
    assert flip_effect(labels, before, after) == {
        "flips": 3, "helped": 1, "hurt": 1, "neutral": 1,
    }


def test_asymmetry():
    confusion = np.array([[9, 6, 0], [2, 9, 1], [0, 1, 9]])
    found = asymmetry(confusion)
    assert found.pairs.tolist() == [[0, 1], [1, 2]] and found.counts.tolist() == [[6, 2], [1, 1]]
    assert found.values.tolist() == [0.5, 0.0] and found.total == pytest.approx(4 / 10)
    assert asymmetry(np.diag([3, 4])).total is None


def test_asymmetry_by_chance_is_the_mean_over_all_ways_the_confusions_can_fall():
    for n in (1, 2, 3, 8, 9):
        ways = [abs(2 * bin(way).count("1") - n) for way in range(2**n)]
        found = asymmetry(np.array([[0, n], [0, 0]]))
        assert found.total == 1 and found.chance == pytest.approx(np.mean(ways) / n)
    two = asymmetry(np.array([[0, 1, 2], [0, 0, 0], [0, 0, 0]]))
    assert two.chance == pytest.approx((1 + 1) / 3)  # E = 1 for one confusion, 1 for two


def test_harmonic_mean():
    assert harmonic_mean(80, 60) == pytest.approx(2 * 80 * 60 / 140)
    assert harmonic_mean(0, 0) == 0


def test_spearman_is_the_correlation_of_ranks_with_ties_at_their_mean():
    assert spearman(np.array([1, 2, 3, 9]), np.array([-1.0, 0, 5, 6])) == pytest.approx(1)
    assert spearman(np.array([3, 2, 1]), np.array([1, 5, 7])) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert spearman(np.array([1, 2, 2, 3]), np.array([1, 2, 3, 4])) == pytest.approx(0.948683298)
    assert spearman(np.array([1, 1, 1]), np.array([1, 2, 3])) is None


def test_classes_of_one_name_are_told_apart_by_their_labels():
    assert distinct(["missile", "crane", "missile"]) == ["missile (0)", "crane", "missile (2)"]
