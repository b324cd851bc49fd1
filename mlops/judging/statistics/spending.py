"""Alpha spending: how certain a test must be when it is tried again on the same data.

Whoever retrains an equal model and tests it on the same rows until it passes has as many chances as tries. So each try gets a smaller share
of an error that is fixed for all of them together. The share of try k is 2 / (k (k + 1)) of the whole, half of which is the first try's
own level; the shares of any number of tries add up to less than the whole (a union bound, as in Bonferroni's correction, needs no
assumption about how the tries depend on each other).
"""

from __future__ import annotations

__all__ = ["spend"]


def spend(confidence: float, tries: int) -> float:
    """Return the confidence of a two-sided interval at this try.

    The errors of all tries add up to less than twice that of the first: with 0.95, one-sided, 2.5 % for one try and 5 % for any number.

    Args:
        confidence: of the first try, e.g. 0.95.
        tries: number of this try, 1 for the first.

    Raises:
        ValueError: ``tries`` is less than 1.
    """
    if tries < 1:
        raise ValueError(f"{tries} is not a valid number of a try")
    return 1 - (1 - confidence) * 2 / (tries * (tries + 1))
