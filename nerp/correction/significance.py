"""Whether the effect of flips exceeds chance."""

import math


def sign_test(helped: int, hurt: int) -> float:
    """The two-sided p-value of the sign test: the probability of a difference between helped and
    hurt at least this large if each flip were equally likely to help or hurt (exact)."""
    n = helped + hurt
    tail = sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
                 - n * math.log(2))
        for k in range(min(helped, hurt) + 1)
    )
    return min(1.0, 2 * tail)
