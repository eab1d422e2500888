"""Whether what flips did stands out from chance."""

import math


def sign_test(helped: int, hurt: int) -> float:
    """The probability of a difference between helped and hurt at least as large as the one found
    if each such flip went either way like a fair coin (exact, two-sided)."""
    n = helped + hurt
    tail = sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
                 - n * math.log(2))
        for k in range(min(helped, hurt) + 1)
    )
    return min(1.0, 2 * tail)
