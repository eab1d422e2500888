"""Classes that lie together, by their features."""

import math
import warnings

import torch
from torch import Tensor

_ROUNDS = 150


def k_means(text: Tensor, seed: int) -> Tensor:
    """The cluster [C] of each class feature [C, D]: of 2, 5, 7, ... clusters, fewer than a fifth of
    the classes, those with the best silhouette; one for all where none is positive."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    points = text.double().cpu().numpy()
    best, found = 0.0, torch.zeros(len(points), dtype=torch.long)
    for count in (2, *range(5, math.ceil(0.2 * len(points)), 2)):
        if count >= len(points):
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fewer distinct points than clusters
            model = KMeans(count, n_init=1, max_iter=_ROUNDS, random_state=seed % 2**32)
            labels = model.fit_predict(points)
        if len(set(labels.tolist())) < 2:
            continue
        score = float(silhouette_score(points, labels))
        if score > best:
            best, found = score, torch.from_numpy(labels).long()
    return found
