"""Class biases from unlabelled images: the bias with which their mean prediction is a given one.

`anchored_bias` minimises over b [C]

    sum_i logsumexp(z_i - b) + N w.b + |b - b0|^2 / (2 width^2)

the posterior mode of a class bias with a Gaussian prior around an anchor b0, in which every image
is one observation. A width near 0 gives the anchor. An infinite width gives `uniform_bias`: the
mean of softmax(z - b) over the images is w (prior matching), whatever the anchor. That is right
only if w are the shares of the classes under test. `stray` measures, without labels, how far the
images depart from equal shares; `guarded_bias` decides by it.

The function is convex and smooth. It is minimised by Newton's method, whose equations the method
of conjugate gradients solves without the [C, C] matrix of second derivatives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.correction.correction import AT_ONCE, top_classes

# Defaults in logits: the width of the prior around the anchor, and the distance from the anchor
# beyond which the classes look unequally frequent. They suit a backbone whose biases are predicted
# as well as those of the drawn worlds (docs/study/choice.md).
WIDTH = 0.3
LIMIT = 0.5

_MOST_ROUNDS = 60
_MOST_SHORTER = 12
_FEW_CLASSES = 64  # up to this number of classes, H is built and solved directly
_MOST_PRODUCTS = 100  # products of H with a vector per round
# If predictions are more certain than this (mean of 1 - sum p^2), the search begins with logits
# that are divided by 2, 4, ...: the function itself is then nearly flat except for sharp bends.
_LEAST_DOUBT = 0.1
_NEARLY_MET = 5e-3
_DULLEST, _SHARPEST = 1e-6, 1e3
# The most probabilities that are kept for the second derivatives; of more images, every k-th is
# used.
_KEPT = 2**24
_ROUNDING = 100  # an error below this many epsilons that stops falling is due to rounding
_LEAST_SPREAD = 0.01  # in `stray`: of a class that no image is uncertain about


def uniform_bias(
    logits: Tensor, shares: Tensor | None = None, start: Tensor | None = None, met: float = 0.0
) -> Tensor:
    """The bias [C], of mean 0, with which the mean of softmax(z - bias) over N images is uniform.

    It uses all the images that it then corrects, and assumes that all classes have equally many.

    Args:
        logits: [N, C]. shares: [C] the wanted mean prediction instead of the uniform one. If these
            are the shares of known labels, the bias is their maximum-likelihood fit.
        start, met: as in `anchored_bias`.

    Raises NerpError for no images, logits that are not finite, one class, or shares that are not
    positive and of sum 1.
    """
    return anchored_bias(logits, width=math.inf, shares=shares, start=start, met=met)


def anchored_bias(
    logits: Tensor, anchor: Tensor | None = None, width: float = WIDTH,
    shares: Tensor | None = None, start: Tensor | None = None, met: float = 0.0,
) -> Tensor:
    """The bias [C], of mean 0, that moves from an anchor towards N images: further for more
    images.

    Args:
        logits: [N, C]. anchor: [C] the bias that is expected without these images; None: 0.
        width: how far a bias usually lies from the anchor, in logits.
        shares: [C] of the classes among the images; None: equal shares.
        start: [C] where the search starts; None: at the anchor. It changes the time, not the
            result.
        met: the share of the mean prediction that may be wrong; 0: as exact as rounding allows.

    Raises NerpError as `uniform_bias`, and for an anchor that is not [C] or a width of 0 or less.
    """
    check_many(logits)
    if not width > 0:
        raise NerpError(f"the width is {width:g}; it is a number of logits above 0")
    problem = _Problem.of(logits, anchor, width, shares)
    bias = problem.solve(problem.anchor if start is None else start.double(), met)
    return (bias - bias.mean()).to(logits.dtype)


def sharpened_bias(
    logits: Tensor, shares: Tensor | None, enough: Callable[[Tensor], bool]
) -> Tensor:
    """The bias [C], in double precision, with which the mean of softmax(k (z - b)) is nearly
    `shares`, for the first k of 1, 2, 4, ... for which `enough` returns True.

    With growing k it tends to the bias with which each class is predicted for its share of the
    images. Raises NerpError as `uniform_bias`.
    """
    check_many(logits)
    problem = _Problem.of(logits, None, math.inf, shares)
    bias = problem.solve(problem.anchor, _NEARLY_MET)
    while not enough(bias) and problem.sharpness < _SHARPEST:
        problem = replace(problem, sharpness=2 * problem.sharpness)
        bias = problem.descend(bias, problem.at(bias), _NEARLY_MET)
    return bias


def stray(logits: Tensor, anchor: Tensor, matched: Tensor | None = None) -> tuple[float, float]:
    """Two distances, root mean square over classes, in logits. The first is the distance of an
    anchor [C] from `uniform_bias` of N images. The second is the distance that random draws of N
    labels from equally frequent classes cause.

    Args: matched: `uniform_bias` of the logits, if it is known already.

    Raises NerpError as `uniform_bias`.
    """
    check_many(logits)
    count, classes = logits.shape
    matched = uniform_bias(logits) if matched is None else matched
    spread = torch.zeros(classes, dtype=torch.float64, device=logits.device)
    for chunk in chunks(logits):
        p = (chunk - matched).softmax(dim=1)
        spread += p.mul_(1 - p).sum(dim=0, dtype=torch.float64)
    spread = (spread / count).clamp(min=_LEAST_SPREAD)
    noise = (1 / classes) * (1 - 1 / classes) / (count * spread.square())
    distance = (matched.double() - centred(anchor)).square()
    return float(distance.mean().sqrt()), float(noise.mean().sqrt())


@dataclass(frozen=True)
class Guarded:
    """A bias [C], of mean 0, and the decision behind it.

    Attributes: distance, noise: as `stray`. uneven: whether the images' classes look unequally
    frequent. followed: whether the bias follows the images; otherwise it is the anchor.
    """

    bias: Tensor
    distance: float
    noise: float
    uneven: bool
    followed: bool


def guard(
    logits: Tensor, anchor: Tensor, width: float = WIDTH, limit: float = LIMIT, heed: bool = True,
    matched: Tensor | None = None, start: Tensor | None = None, met: float = 0.0,
) -> Guarded:
    """`guarded_bias` with the numbers that decided it. Raises NerpError as `anchored_bias`.

    Args:
        heed: whether the anchor is kept if the classes look unequally frequent.
        matched: as in `stray`. start, met: as in `anchored_bias`.
    """
    distance, noise = stray(logits, anchor, matched)
    uneven = not distance**2 <= limit**2 + 2 * noise**2
    followed = not (uneven and heed)
    bias = anchored_bias(logits, anchor, width, start=start, met=met) if followed else (
        centred(anchor).to(logits.dtype))
    return Guarded(bias, distance, noise, uneven, followed)


def guarded_bias(
    logits: Tensor, anchor: Tensor, width: float = WIDTH, limit: float = LIMIT,
) -> Tensor:
    """`anchored_bias` if the images' classes look equally frequent, otherwise the anchor: [C], of
    mean 0.

    They look equally frequent if distance^2 <= limit^2 + 2 noise^2 (`stray`). Raises NerpError as
    `anchored_bias`.
    """
    return guard(logits, anchor, width, limit).bias


def centred(bias: Tensor) -> Tensor:
    """A bias less its mean, in double precision."""
    return bias.double() - bias.double().mean()


def chunks(logits: Tensor) -> tuple[Tensor, ...]:
    """Chunks of the rows of logits [N, C] that bound the memory."""
    return torch.split(logits, max(1, AT_ONCE // logits.shape[1]))


def check_many(logits: Tensor) -> None:
    """Raise NerpError for logits [N, C] from which no class bias can be estimated."""
    if logits.dim() != 2 or not logits.is_floating_point():
        raise NerpError(f"logits are {tuple(logits.shape)}, {logits.dtype}; expected [images, "
                        "classes] of floats")
    if not len(logits):
        raise NerpError("there are no images whose predictions could be made uniform")
    if logits.shape[1] < 2:
        raise NerpError("there is one class, and a bias between classes needs two")
    top_classes(logits)
    lowest = logits.amin(dim=1)
    if not lowest.isfinite().all():
        raise NerpError(f"the logits of image {int((~lowest.isfinite()).nonzero()[0])} are not "
                        "finite")


def check_shares(shares: Tensor, classes: int) -> None:
    """Raise NerpError unless shares are [C], positive and of sum 1."""
    if shares.shape != (classes,):
        raise NerpError(f"shares are {tuple(shares.shape)}; there are {classes} classes")
    if not (shares > 0).all():  # NaN is not
        raise NerpError(f"the share of class {int((~(shares > 0)).nonzero()[0])} is "
                        f"{float(shares[~(shares > 0)][0]):g}; each class has one above 0")
    if not math.isclose(float(shares.double().sum()), 1, abs_tol=1e-4):
        raise NerpError(f"the shares sum to {float(shares.double().sum()):g}; they sum to 1")


def check_bias(bias: Tensor, classes: int, name: str) -> None:
    """Raise NerpError unless a bias is [C] and finite."""
    if bias.shape != (classes,):
        raise NerpError(f"the {name} is {tuple(bias.shape)}; there are {classes} classes")
    if not bias.isfinite().all():
        raise NerpError(f"the {name} holds numbers that are not finite")


@dataclass(frozen=True)
class _Moment:
    """Statistics at a bias: the mean prediction [C]; the probabilities [K, C] of K evenly spaced
    images; the mean of their squares [C]."""

    mean: Tensor
    kept: Tensor
    square: Tensor

    @property
    def doubt(self) -> float:
        return 1 - float(self.square.sum())


@dataclass(frozen=True)
class _Problem:
    """The function above, divided by N, in double precision except for the logits.

    Attributes: pull: 1 / (N width^2). sharpness: the factor of logits and bias; the first term is
    divided by it. It is 1, or smaller in the first steps of the search.
    """

    logits: Tensor
    wanted: Tensor
    anchor: Tensor
    pull: float
    sharpness: float = 1.0

    @classmethod
    def of(
        cls, logits: Tensor, anchor: Tensor | None, width: float, shares: Tensor | None
    ) -> "_Problem":
        count, classes = logits.shape
        even = torch.full((classes,), 1 / classes, dtype=torch.float64, device=logits.device)
        if shares is None:
            shares = even
        check_shares(shares, classes)
        if anchor is None:
            anchor = torch.zeros_like(even)
        check_bias(anchor, classes, "anchor")
        shares = shares.double()
        return cls(logits, shares / shares.sum(), centred(anchor), 1 / (count * width**2))

    def solve(self, bias: Tensor, met: float = 0.0) -> Tensor:
        """The minimum, searched from `bias`, to the precision `met` (`descend`) or to that of the
        logits."""
        moment, duller = self.at(bias), self
        while moment.doubt < _LEAST_DOUBT and duller.sharpness > _DULLEST:
            duller = replace(duller, sharpness=duller.sharpness / 2)
            moment = duller.at(bias)
        while duller.sharpness < 1:
            bias = duller.descend(bias, moment, _NEARLY_MET)
            duller = replace(duller, sharpness=2 * duller.sharpness)
            moment = duller.at(bias)
        # The rounding error of z - b, which is as large as z.
        rounding = torch.finfo(self.logits.dtype).eps * max(8.0, float(self.logits.abs().max()))
        return self.descend(bias, moment, max(met, rounding))

    def descend(self, bias: Tensor, moment: _Moment, met: float) -> Tensor:
        """The minimum: the search ends if at most a share `met` of the mean prediction is wrong, or
        if rounding prevents more."""
        best, least = bias, math.inf
        for _ in range(_MOST_ROUNDS):
            slope = self.slope(bias, moment)
            error = float(slope.abs().sum()) / 2
            if error < least:
                best, least = bias, error
            elif error < _ROUNDING * met:
                break
            if error < met:
                break
            bias, moment = self.step(bias, moment, slope, error)
        return best

    def slope(self, bias: Tensor, moment: _Moment) -> Tensor:
        """The derivative [C] of the function."""
        return self.wanted - moment.mean + self.pull * (bias - self.anchor)

    def at(self, bias: Tensor) -> _Moment:
        """The images' statistics at a bias."""
        every = -(-self.logits.numel() // _KEPT)
        kept = torch.empty_like(self.logits[::every])
        mean, square, row = torch.zeros_like(bias), torch.zeros_like(bias), 0
        moved = bias.to(self.logits.dtype)
        rows = every * max(1, AT_ONCE // (every * len(bias)))
        for chunk in torch.split(self.logits, rows):
            p = (chunk - moved).mul_(self.sharpness).softmax(dim=1)
            mean += p.sum(dim=0)
            some = p[::every]
            square += some.square().sum(dim=0)
            kept[row : row + len(some)] = some
            row += len(some)
        return _Moment(mean / len(self.logits), kept, square / len(kept))

    def step(
        self, bias: Tensor, moment: _Moment, slope: Tensor, error: float
    ) -> tuple[Tensor, _Moment]:
        """The next bias, nearer to the minimum, and the statistics there.

        If possible, the step solves log(mean / wanted) = 0 instead of wanted - mean = 0: for a
        class that no image comes near, the second derivative is nearly 0 too, and a step by the
        slope would go much too far.
        """
        wanted = self.wanted + self.pull * (bias - self.anchor)
        target, pull = -slope, torch.full_like(slope, self.pull)
        if (wanted > 0).all():
            # For a class that no image comes near, the mean is 0 in the logits' precision.
            least = torch.finfo(self.logits.dtype).tiny
            log_ratio = (moment.mean.clamp(min=least) / wanted).log()
            target, pull = moment.mean * log_ratio, self.pull * moment.mean / wanted
            target -= moment.mean * target.sum()  # the bias keeps its mean
        move = self.newton(moment, target, pull, error)
        if not float(slope @ move) < 0:  # by rounding, or far from the minimum
            move = -slope if self.pull else log_ratio / self.sharpness  # Sinkhorn's scaling
        down, length = float(slope @ move), 1.0
        for _ in range(_MOST_SHORTER):
            further = bias + length * move
            there = self.at(further)
            up = float(self.slope(further, there) @ move)
            if up <= -down / 2:  # convex: the step passes the minimum by little at most
                break
            length *= max(0.1, -down / (up - down))  # where a linear slope would cross 0
        return further, there

    def newton(self, moment: _Moment, target: Tensor, pull: Tensor, error: float) -> Tensor:
        """The solution x of H x = target, where H are the second derivatives: sharpness
        (diag(mean) - mean of p p') + pull. For many classes it uses conjugate gradients,
        preconditioned by H's diagonal.

        Args: error: of the mean prediction; a smaller error asks for a more exact solution.
        """
        kept = moment.kept
        mean = kept.mean(dim=0, dtype=torch.float64)
        diagonal = self.sharpness * (mean - moment.square).clamp(min=1e-6 * mean) + pull
        diagonal = diagonal.clamp(min=torch.finfo(torch.float64).tiny)
        if len(mean) <= _FEW_CLASSES:
            inner = (kept.t() @ kept).double() / len(kept)
            matrix = self.sharpness * (mean.diag() - inner) + pull.diag()
            unit = diagonal.sqrt()
            matrix = matrix / unit / unit[:, None]
            matrix.diagonal().fill_(1.0)
            # Without a pull, H does not determine the bias's mean; this term keeps it.
            matrix += torch.outer(unit, unit) / diagonal.sum()
            solved: Tensor = torch.linalg.solve(matrix, target / unit) / unit
            return solved - solved.mean()

        def product(x: Tensor) -> Tensor:
            inner = kept.t() @ (kept @ x.to(kept.dtype))
            return self.sharpness * (mean * x - inner.double() / len(kept)) + pull * x

        found, rest = torch.zeros_like(target), target
        direction = rest / diagonal
        first = size = float(rest @ direction)
        enough = min(0.1, max(error, 0.1 * torch.finfo(kept.dtype).eps ** 0.5))
        for _ in range(min(_MOST_PRODUCTS, 2 * len(target))):
            along = product(direction)
            curvature = float(direction @ along)
            if size <= enough**2 * first or curvature <= 0:
                break
            found = found + size / curvature * direction
            rest = rest - size / curvature * along
            scaled = rest / diagonal
            before, size = size, float(rest @ scaled)
            direction = scaled + size / before * direction
        return found - found.mean()
