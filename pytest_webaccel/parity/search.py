"""Where in a sequence the fault lies: a search that asks of parts whether they fail by themselves. Pure.

A part is what lies between two of the places at which the sequence can be cut. The search halves as long as one of
the halves fails by itself, which takes about ``2 log2 n`` questions. Where neither does, the fault needs both sides
of the middle (two operators that an engine fuses, say, or an error that only grows), and the part is taken in from
either end as far as it goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["narrow"]


def narrow(cuts: Sequence[int], fails: Callable[[int, int], bool]) -> tuple[int, int]:
    """Return the cuts around a smallest part that fails by itself: taking away either end of it, it does not.

    ``cuts`` ascend; what lies between the first and the last is known to fail. ``fails`` is asked of two cuts at a
    time, of none twice.
    """
    if len(cuts) < 2:
        raise ValueError(f"nothing lies between {len(cuts)} cuts; two are the least")
    first, last = _halve(cuts, fails)
    return _take_in(cuts, first, last, fails)


def _halve(cuts: Sequence[int], fails: Callable[[int, int], bool]) -> tuple[int, int]:
    first, last = 0, len(cuts) - 1
    while last - first > 1:
        middle = (first + last) // 2
        if fails(cuts[first], cuts[middle]):
            last = middle
        elif fails(cuts[middle], cuts[last]):
            first = middle
        else:
            break
    return first, last


def _take_in(cuts: Sequence[int], first: int, last: int, fails: Callable[[int, int], bool]) -> tuple[int, int]:
    known: dict[tuple[int, int], bool] = {(first, last): True}
    if last - first > 1:
        middle = (first + last) // 2
        known[first, middle] = known[middle, last] = False

    def asked(left: int, right: int) -> bool:
        if (left, right) not in known:
            known[left, right] = fails(cuts[left], cuts[right])
        return known[left, right]

    # From either end, in strides that halve: few questions where a longer part always fails if a shorter one does,
    # and right in any case, since nothing is taken away that was not asked about.
    for shift in ((1, 0), (0, -1)):
        stride = 1 << max((last - first).bit_length() - 1, 0)
        while stride:
            left, right = first + shift[0] * stride, last + shift[1] * stride
            if right - left >= 1 and asked(left, right):
                first, last = left, right
            else:
                stride >>= 1
    while last - first > 1:  # what fails need not do so at every length, so the ends are looked at once more
        if asked(first + 1, last):
            first += 1
        elif asked(first, last - 1):
            last -= 1
        else:
            break
    return cuts[first], cuts[last]
