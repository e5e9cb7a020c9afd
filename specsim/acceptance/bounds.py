"""What a value must be, checked where it comes in: an error names it and what was expected."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.catalog import SpecsimError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def within(name: str, value: ArrayLike, low: float = 0.0, high: ArrayLike = 1.0) -> Floats:
    """A float64 copy of `value`; refuses its first element that is NaN or outside [low, high]."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise SpecsimError(f"{name} must be a number or a regular array of numbers") from None
    inside = (array >= low) & (array <= np.asarray(high, dtype=np.float64))  # False for NaN
    if not np.all(inside):
        bad, top = (np.broadcast_to(x, inside.shape)[~inside][0] for x in (array, high))
        raise SpecsimError(f"{name} must be within [{low:g}, {top:g}], got {bad:g}")
    return array


def whole(name: str, value: ArrayLike, low: int = 0) -> Integers:
    """`value` as int64; refuses its first element that is not a whole number of at least `low`."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise SpecsimError(f"{name} must be whole numbers >= {low}, got {array.dtype} values")
    good = (array >= low) & (array < 2**53) & (array == np.floor(array))
    if not np.all(good):
        raise SpecsimError(f"{name} must be a whole number >= {low}, got {array[~good].flat[0]:g}")
    return array.astype(np.int64)


def one_count(name: str, value: ArrayLike, low: int = 0) -> int:
    array = whole(name, value, low)
    if array.ndim:
        raise SpecsimError(f"{name} must be a single whole number here, got shape {array.shape}")
    return int(array)


def as_survival(survival: ArrayLike) -> Floats:
    """Checks a survival vector: s_1..s_gamma along the last axis, within [0, 1], never rising."""
    vector = within("survival", survival)
    if vector.ndim == 0:
        raise SpecsimError(f"survival must be a vector s_1..s_gamma, got the number {vector:g}")
    rises = np.argwhere(np.diff(vector, axis=-1) > 0.0)
    if len(rises):
        *row, k = rises[0]
        before, after = vector[(*row, k)], vector[(*row, k + 1)]
        raise SpecsimError(
            f"survival must not rise with position, got {before:g} at {k + 1} and {after:g} at "
            f"{k + 2}: conditional rates become a survival by a running product"
        )
    return vector


def rounded(name: str, probs: ArrayLike) -> Floats:
    """Probabilities as 32-bit arithmetic leaves them: a hair above 1 is 1."""
    return np.minimum(within(name, probs, high=1.0001), 1.0)


def distribution(name: str, probs: ArrayLike) -> Floats:
    array = rounded(name, probs)
    total = array.sum(axis=-1)
    if not np.all(np.abs(total - 1.0) < 1e-3):
        worst = total.flat[np.argmax(np.abs(total - 1.0))]
        raise SpecsimError(f"{name} must sum to 1 along the last axis, got a sum of {worst:g}")
    return array


def freeze(law: object, **parameters: Floats) -> None:
    for name, value in parameters.items():
        value.flags.writeable = False
        object.__setattr__(law, name, value.item() if value.ndim == 0 else value)
