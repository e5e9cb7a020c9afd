"""What comes in is checked here: the one error, the array types, and every check of a value.

An error names the value, what was expected of it, and is raised where the value enters.

| check | returns |
|---|---|
| `within`, `at_least_one`, `rounded` | floats inside their limits |
| `whole`, `one_count` | whole numbers |
| `as_survival`, `distribution` | probabilities of the right form |
| `require_positive`, `require_size`, `require_share`, `require_count` | nothing: they only raise |
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:  # no program needs numpy.typing to run, and importing it takes time
    from numpy.typing import ArrayLike as ArrayLike
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Booleans = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Strings = NDArray[np.str_]
else:

    class ArrayLike:
        """A number, or whatever NumPy makes an array of; `help` shows this name in signatures."""

    ArrayLike.__module__ = "specsim.checks"  # where it is imported from
    Array = Booleans = Floats = Integers = Strings = np.ndarray


Made = TypeVar("Made")


class SpecsimError(ValueError):
    """A user's mistake, in one clear line; the command line prints it and exits with status 2."""


LONG = 60  # characters of a value that an error quotes


def quoted(value: object) -> str:
    """The value as an error quotes it: in one line, and shortened where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits; deep lists
        return f"a {type(value).__name__} too long to print"
    text = " ".join(text.split())
    return text if len(text) <= LONG else f"{text[: LONG - 10]}…{text[-5:]}"


# ------------------------------------------------------------------------------------- arrays


def within(name: str, value: ArrayLike, low: float = 0.0, high: ArrayLike = 1.0) -> Floats:
    """A float64 copy of `value`; refuses its first element that is NaN or outside [low, high]."""
    try:
        array = np.array(value, dtype=np.float64)
    except OverflowError:  # an integer of more than 308 digits
        raise SpecsimError(f"{name} must be at most 1e308, got a larger number") from None
    except (TypeError, ValueError):
        raise SpecsimError(f"{name} must be a number or a regular array of numbers") from None
    inside = (array >= low) & (array <= np.asarray(high, dtype=np.float64))  # False for NaN
    if not np.all(inside):
        bad, top = (np.broadcast_to(x, inside.shape)[~inside][0] for x in (array, high))
        hint = f" ({bad:g} % is {bad / 100:g})" if top == 1.0 and 5.0 <= bad <= 100.0 else ""
        raise SpecsimError(f"{name} must be within [{low:g}, {top:g}], got {bad:g}{hint}")
    return array


def at_least_one(name: str, value: ArrayLike) -> Floats:
    """`value` as an array of finite numbers >= 1; SpecsimError names the first that is not."""
    return within(name, value, low=1.0, high=1e15)


def whole(name: str, value: ArrayLike, low: int = 0) -> Integers:
    """`value` as int64; refuses its first element that is not a whole number of at least `low`."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise SpecsimError(f"{name} must be whole numbers >= {low}, got a ragged list") from None
    if array.dtype.kind == "O" and all(isinstance(each, int) for each in array.flat):
        raise SpecsimError(f"{name} must be below 2^53, got a number beyond 64 bits")
    if array.dtype.kind not in "iuf":
        raise SpecsimError(f"{name} must be whole numbers >= {low}, got {array.dtype} values")
    good = (array >= low) & (array < 2**53) & (array == np.floor(array))
    if not np.all(good):
        raise SpecsimError(f"{name} must be a whole number >= {low}, got {array[~good].flat[0]:g}")
    return array.astype(np.int64)


def one_count(name: str, value: ArrayLike, low: int = 0) -> int:
    """`value` as one whole number of at least `low`; refuses an array."""
    array = whole(name, value, low)
    if array.ndim:
        raise SpecsimError(f"{name} must be a single whole number here, got shape {array.shape}")
    return int(array)


# ------------------------------------------------------------------------------ probabilities


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
    """Probabilities along the last axis; refuses a sum that is more than 1e-3 away from 1."""
    array = rounded(name, probs)
    total = array.sum(axis=-1)
    if not np.all(np.abs(total - 1.0) < 1e-3):
        worst = total.flat[np.argmax(np.abs(total - 1.0))]
        raise SpecsimError(f"{name} must sum to 1 along the last axis, got a sum of {worst:g}")
    return array


# ---------------------------------------------------------------------------- fields of a type


def require_positive(label: str, value: Any, *, or_zero: bool = False) -> None:
    """SpecsimError unless `value`, a number or an array, is above 0 everywhere (or 0, too, and then
    finite)."""
    number = isinstance(value, int | float | np.number | np.ndarray) and not isinstance(value, bool)
    good = number and np.all((value >= 0) & (value < np.inf) if or_zero else value > 0)
    if not good:
        wanted = "a finite number >= 0" if or_zero else "above 0"
        raise SpecsimError(f"{label} must be {wanted}, not {quoted(value)}")


def require_finite(label: str, value: Any, *, above_zero: bool = True) -> None:
    """SpecsimError unless `value` is one finite number, above 0 unless that is not asked for."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not (value > 0 if above_zero else value > -np.inf) or not value < np.inf:
        wanted = "a finite number above 0" if above_zero else "a finite number"
        raise SpecsimError(f"{label} must be {wanted}, not {quoted(value)}")


def require_text(label: str, value: object) -> None:
    """SpecsimError unless `value` is text."""
    if not isinstance(value, str):
        raise SpecsimError(f"{label} must be text, not {quoted(value)}")


def require_flags(label: str, **values: object) -> None:
    """SpecsimError, with the name of the first that is wrong, unless all values are booleans."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise SpecsimError(f"{label}: {name} must be true or false, not {quoted(value)}")


def require_size(label: str, value: object, least: int = 1) -> None:
    """SpecsimError unless `value` is an integer of at least `least`, 1 or 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        wanted = "a positive integer" if least else "a whole number >= 0"
        raise SpecsimError(f"{label} must be {wanted}, not {quoted(value)}")


def require_share(name: str, value: float, low: float = 0.0) -> None:
    """SpecsimError unless `value` is a number within [low, 1]."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not low <= value <= 1.0:
        raise SpecsimError(f"{name} must be within [{low:g}, 1], got {quoted(value)}")


def require_count(name: str, value: int) -> None:
    """SpecsimError unless `value` is a whole number of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise SpecsimError(f"{name} must be a whole number >= 1, got {quoted(value)}")


def build(kind: Callable[..., Made], values: Any, name: str) -> Made:
    """The dataclass `kind` of the fields in `values`, a table that came from a file; SpecsimError,
    with the field, if it is no table, or one of its fields is missing or unknown."""
    if not isinstance(values, Mapping):
        raise SpecsimError(f"{name} must be a table of fields, not {quoted(values)}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise SpecsimError(f"{name} has an unknown field {quoted(unknown[0])}")
    absent = [
        key
        for key, field in known.items()
        if key not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    if absent:
        raise SpecsimError(f"{name} lacks the field {absent[0]!r}")
    return kind(**values)
