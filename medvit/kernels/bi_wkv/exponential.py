"""Parts of exp that the kernels for one number and for eight at a time share.

exp(x) is an integer power of two times the Taylor series of the remainder r, with |r| <= ln 2 / 2.
"""

from __future__ import annotations

from numba import njit

__all__ = ["LIMIT", "LN2_HIGH", "LN2_LOW", "LOG2E", "ROUND", "taylor"]

LOG2E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
LIMIT = 708.0
"""Largest magnitude of an exponent whose exp is a normal double."""

ROUND = 6755399441055744.0
"""The number 1.5 * 2^52. A double of this size has no fraction, so adding it rounds and leaves the integer in the low bits."""


@njit(inline="always")
def taylor(p, r):  # type: ignore[no-untyped-def]
    """Continue the series by Horner's rule from ``p``, its coefficients of r^11 and above, down to r^0."""
    p = p * r + 1 / 3628800
    p = p * r + 1 / 362880
    p = p * r + 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 0.5
    p = p * r + 1.0
    return p * r + 1.0
