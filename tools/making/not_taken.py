"""Published corrections that are compared with NeRP's rules but are not among them.

Each of them corrects more than a preference for classes and therefore needs features. They are
written plainly, in double precision. They follow their published code, with its settings for
ImageNet or its defaults. z are logits [N, C] of images in stream order. f [N, D] and t [C, D] are
features of images and classes, of length 1.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_Cache = dict[int, list[tuple[float, int]]]


def tda(z: Floats, f: Floats, negative: bool = True) -> Floats:
    """Logits [N, C] with two caches of images by predicted class (TDA, Karmanov et al., CVPR 2024).
    The first caches the most confident images. negative: whether the second is used, of images with
    medium confidence."""
    p, scores = softmax(z), z.copy()
    entropy = -(p * _log(p)).sum(axis=1)
    relative = entropy / np.log2(z.shape[1])
    sure: _Cache = {}
    doubted: _Cache = {}
    for i, predicted in enumerate(z.argmax(axis=1)):
        _keep(sure, int(predicted), (float(entropy[i]), i), 3)
        if negative and 0.2 < relative[i] < 0.5:
            _keep(doubted, int(predicted), (float(entropy[i]), i), 2)
        for c, kept in sure.items():
            scores[i, c] += sum(2 * np.exp(5 * (f[i] @ f[j] - 1)) for _, j in kept)
        for _, j in (image for kept in doubted.values() for image in kept):
            scores[i] -= 0.117 * np.exp(f[i] @ f[j] - 1) * ((p[j] > 0.03) & (p[j] < 1))
    return scores


def _keep(cache: _Cache, c: int, image: tuple[float, int], most: int) -> None:
    kept = cache.setdefault(c, [])
    kept.append(image)
    kept.sort(key=lambda each: each[0])
    del kept[most:]


def bca(f: Floats, t: Floats, scale: float) -> Floats:
    """Probabilities [N, C] with centres and likelihoods that follow the predictions (BCA, Zhou et
    al., CVPR 2025)."""
    centres, weights = t.copy(), np.full(len(t), 20_000.0)
    table, counts = np.eye(len(t)), np.ones(len(t))
    found = np.empty((len(f), len(t)))
    for i, image in enumerate(f):
        p = softmax(scale * centres @ image) @ table
        p /= p.sum()
        found[i], c = p, p.argmax()
        if p[c] > 0.05:
            centres[c] = unit((weights[c] * centres[c] + image) / (weights[c] + 1))
            weights[c] += 1
        if p[c] > 0.65:
            table[c] = (counts[c] * table[c] + p) / (counts[c] + 1)
            table[c] /= table[c].sum()
            counts[c] += 1
    return found


def dota(z: Floats, f: Floats) -> Floats:
    """Logits [N, C] with a Gaussian for each class, estimated from all earlier images; one view per
    image (DOTA, Han et al., 2024)."""
    count, classes, width = *z.shape, f.shape[1]
    p, scores = softmax(z), np.empty_like(z)
    seen, means = np.ones(classes), np.full((classes, width), 0.001)
    spread = np.tile(1e-4 * np.eye(width), (classes, 1, 1))
    inverse = np.linalg.inv(spread[0])
    for i in range(count):
        weights = means @ inverse
        score = weights @ f[i] - (weights * means).sum(axis=1) / 2
        scores[i] = z[i] + min(0.02 * seen.mean(), 0.1) * score
        away, share = f[i] - means, p[i] / (seen + p[i])
        spread += share[:, None, None] * (away[:, :, None] * away[:, None] - spread)
        means += share[:, None] * away
        seen += p[i]
        inverse = np.linalg.inv(0.999 * spread.mean(axis=0) + 1e-3 * np.eye(width))
    return scores


def onzeta(z: Floats, f: Floats, t: Floats) -> Floats:
    """Probabilities [N, C] by labels and proxies that are learned online (OnZeta, Qian and Hu, ECCV
    2024)."""
    p, proxies, duals = softmax(z), t.copy(), np.zeros(len(t))
    found = np.empty_like(z)
    for i, image in enumerate(f):
        step = 1 / np.sqrt(i + 1)
        labels = p[i] * np.exp(duals)
        labels /= labels.sum()
        duals = np.maximum(0, duals - 20 * step * (labels - 1 / len(t)))
        vision = softmax(proxies @ image / 0.04)
        trust = 0.8 * np.sqrt((i + 1) / len(z))
        found[i] = trust * vision + (1 - trust) * labels
        proxies = unit(proxies - 0.5 * step / 0.04 * (vision - labels)[:, None] * image)
    return found


def inmap(p: Floats, f: Floats, t: Floats, rounds: int = 2_000) -> Floats:
    """Class proxies [C, D] fitted to pseudo-labels p [N, C]. Sinkhorn's scaling makes the labels
    uniform over the classes (InMaP, Qian et al., NeurIPS 2023)."""
    sure = p.max(axis=1, keepdims=True) > 0.6
    wanted = np.where(sure, np.eye(len(t))[p.argmax(axis=1)], p)
    proxies, rate, before = t.copy(), 10 / (len(f) * 0.04), np.inf
    for _ in range(rounds):
        slope = (softmax(f @ proxies.T / 0.04) - wanted).T @ f
        size = float(np.linalg.norm(slope))
        rate = rate / 2 if size > before else rate
        proxies, before = unit(proxies - rate * slope), size
    return proxies


def transclip(z: Floats, f: Floats, t: Floats) -> Floats:
    """Probabilities [N, C] from Gaussian classes with one covariance and from neighbouring images
    (TransCLIP, Zanella et al., NeurIPS 2024)."""
    def fitted(assigned: Floats) -> tuple[Floats, Floats]:
        means = _class_means(assigned, f)
        return means, np.tile(_squares(assigned, f, means).sum(axis=0) / len(f), (len(t), 1))

    return _by_neighbours(z, f, t, np.full_like(t, 1 / t.shape[1]), fitted, volume=False)


def stata(z: Floats, f: Floats, t: Floats) -> Floats:
    """Probabilities [N, C] as in `transclip`, but with a mean and variance per class. They stay
    near the text's if few images are assigned to the class (StatA, Zanella et al., CVPR 2025)."""
    first = _squares(softmax(z), f, t).sum(axis=0) / len(f)

    def fitted(assigned: Floats) -> tuple[Floats, Floats]:
        taken = np.bincount(assigned.argmax(axis=1), minlength=len(t))[:, None]
        trust = taken / (taken + 1.0)
        means = unit(trust * _class_means(assigned, f) + (1 - trust) * t)
        own = _squares(assigned, f, means) / assigned.sum(axis=0)[:, None]
        return means, trust * own + (1 - trust) * (first + (means - t) ** 2)

    return _by_neighbours(z, f, t, np.tile(first, (len(t), 1)), fitted, volume=True)


def _by_neighbours(
    z: Floats, f: Floats, t: Floats, variance: Floats,
    fitted: Callable[[Floats], tuple[Floats, Floats]], volume: bool,
) -> Floats:
    """Assignments [N, C], fitted in turn with the classes' means and variances. Each image's
    assignment is pulled towards those of its three nearest neighbours. volume: whether the
    likelihoods include the variances' determinants."""
    near = np.zeros((len(f), len(f)))
    cosines = f @ f.T
    np.fill_diagonal(cosines, -np.inf)
    rows = np.arange(len(f))[:, None]
    nearest = np.argpartition(-cosines, 3, axis=1)[:, :3]
    near[rows, nearest] = cosines[rows, nearest]
    near += near.T
    log_p = _log(softmax(z))
    assigned, means = softmax(z), t
    for last in [False] * 10 + [True]:
        likely = -np.stack([((f - mean) ** 2 / own).sum(axis=1)
                            for mean, own in zip(means, variance, strict=True)], axis=1) / 2
        likely -= np.log(variance).sum(axis=1) / 2 if volume else 0
        for _ in range(5):
            assigned = softmax(log_p + likely / 50 + near @ assigned / 6)
        if not last:
            means, variance = fitted(assigned)
    return assigned


def _class_means(assigned: Floats, f: Floats) -> Floats:
    return unit(assigned.T @ f / assigned.sum(axis=0)[:, None])


def _squares(assigned: Floats, f: Floats, means: Floats) -> Floats:
    """Squared distances of images from the classes' means, summed by class [C, D]."""
    return np.stack([assigned[:, c] @ (f - mean) ** 2 for c, mean in enumerate(means)])


def _log(p: Floats) -> Floats:
    found: Floats = np.log(p.clip(min=np.finfo(np.float64).tiny))
    return found


def softmax(z: Floats) -> Floats:
    """Probabilities of logits, over the last axis."""
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    found: Floats = p / p.sum(axis=-1, keepdims=True)
    return found


def unit(x: Floats) -> Floats:
    """Rows of length 1."""
    found: Floats = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return found
