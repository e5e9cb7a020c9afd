"""Numbers from text: of an option, of a link."""

from specsim.checks.limits import require_limit
from specsim.checks.values import SpecsimError, quoted

MOST = 2000  # characters of a message


def one_line(message: str) -> str:
    """A message in one line that every terminal prints: line ends, control characters and what is
    no character are escaped, and the middle of a very long one is left out."""
    if len(message) > MOST:
        message = f"{message[: MOST - 200]} … {message[-200:]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)


def number(name: str, text: str) -> float:
    """The number that `text` spells."""
    try:
        return float(text)
    except ValueError:
        raise SpecsimError(f"{name} must be a number, not {quoted(text)}") from None


def whole_number(name: str, text: str) -> int:
    """The whole number that `text` spells, of up to 19 digits."""
    try:
        if len(text) <= 30 and abs(found := int(text)) < 2**63:
            return found
    except ValueError:
        pass
    raise SpecsimError(f"{name} must be a whole number below 2^63, not {quoted(text)}")


def numbers(name: str, text: str) -> list[float]:
    """The numbers of a comma-separated list."""
    require_limit("values", text.count(",") + 1, f"the number of values in {name}")
    return [number(name, part) for part in text.split(",")]


def whole_numbers(name: str, text: str) -> list[int]:
    """The whole numbers, each at least 1, of a comma-separated list."""
    values = numbers(name, text)
    for value in values:
        if not (1 <= value < float("inf") and value == int(value)):
            raise SpecsimError(f"{name} must be whole numbers >= 1, got {value:g}")
    return [int(value) for value in values]
