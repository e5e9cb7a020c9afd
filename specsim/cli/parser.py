"""Arguments: errors in one line, and numbers out of text."""

import argparse
from typing import Any, TypeAlias

from specsim.catalog import SpecsimError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Parser(argparse.ArgumentParser):
    """Argument errors in one line, like every other."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\n")


def number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecsimError(f"{name} must be a number, not {text!r}") from None


def numbers(name: str, text: str) -> list[float]:
    return [number(name, part) for part in text.split(",")]


def whole_numbers(name: str, text: str) -> list[int]:
    values = numbers(name, text)
    for value in values:
        if not (1 <= value < float("inf") and value == int(value)):
            raise SpecsimError(f"{name} must be whole numbers >= 1, got {value:g}")
    return [int(value) for value in values]
