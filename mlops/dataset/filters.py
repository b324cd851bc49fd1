"""Bloom filters of hashes, as numpy arrays, which quickly rule out nearly all hashes that aren't in a set.

Every hash sets two bits of one element, so a look-up costs a single access to memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

__all__ = ["BloomFilter", "find_changes"]


class BloomFilter:
    """A set of hashes, with false positives but no false negatives.

    Attributes:
        elements: 64 bits each; their number is a power of two.
    """

    def __init__(self, elements: Hashes) -> None:
        self.elements = elements

    @classmethod
    def create(cls, count: int, per_element: float) -> BloomFilter:
        """Create an empty filter.

        Args:
            count: how many hashes will be added.
            per_element: maximum number of hashes per element. With 4, about one in a hundred other hashes passes.
        """
        import numpy as np

        return cls(np.zeros(1 << int(count / per_element).bit_length(), dtype=np.uint64))

    def add(self, hashes: Hashes) -> None:
        """Add hashes, which must be in ascending order."""
        import numpy as np

        places = self._places(hashes)
        first = find_changes(places)
        if len(first):
            self.elements[places[first]] |= np.bitwise_or.reduceat(_bits(hashes), first)

    def contains(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Return for each hash whether it may be in the set."""
        bits = _bits(hashes)
        hits: npt.NDArray[np.bool_] = self.elements[self._places(hashes)] & bits == bits
        return hits

    def _places(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        import numpy as np

        # In two steps, because a shift by 64 bits has no defined result. Signed, because numpy converts other indices.
        return (hashes >> np.uint64(32) >> np.uint64(33 - len(self.elements).bit_length())).view(np.int64)


def find_changes(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return where each group of equal values begins."""
    import numpy as np

    return np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])


def _bits(hashes: Hashes) -> Hashes:
    import numpy as np

    one, lowest = np.uint64(1), np.uint64(63)
    return one << (hashes & lowest) | one << (hashes >> np.uint64(6) & lowest)
