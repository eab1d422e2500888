"""Numbers about predictions: accuracy, macro F1, the confusion matrix, what flips did."""

import numpy as np


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """[C, C] counts; row: true class, column: predicted class."""
    cells = labels * classes + predictions
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def accuracy_record(confusion: np.ndarray) -> dict:
    """Total, correct, accuracy and macro F1 in percent, per-class accuracy in percent.

    Macro F1 averages over the classes that occur as a label or a prediction (as scikit-learn
    does); a class without images has no accuracy (None).
    """
    correct, support = confusion.diagonal(), confusion.sum(1)
    occurs = support + confusion.sum(0)
    f1 = 2 * correct[occurs > 0] / occurs[occurs > 0]
    total = int(support.sum())
    return {
        "total": total,
        "correct": int(correct.sum()),
        "accuracy": 100 * float(correct.sum()) / total,
        "macro_f1": 100 * float(f1.mean()),
        "per_class_accuracy": [
            100 * float(c) / int(n) if n else None for c, n in zip(correct, support, strict=True)
        ],
    }


def flip_effect(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, int]:
    """How many predictions changed, and how many of the changes helped, hurt, or did neither."""
    changed = before != after
    helped = int((changed & (after == labels)).sum())
    hurt = int((changed & (before == labels)).sum())
    count = int(changed.sum())
    return {"flips": count, "helped": helped, "hurt": hurt, "neutral": count - helped - hurt}


def harmonic_mean(base: float, novel: float) -> float:
    """H = 2bn / (b + n), 0 where both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0
