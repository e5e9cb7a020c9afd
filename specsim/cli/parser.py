"""The parser of the commands: its errors are one line."""

import argparse
import sys
from typing import Any, TypeAlias

from specsim.checks import one_line

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Parser(argparse.ArgumentParser):
    """Prints an error of the arguments in one line, like every other error."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {one_line(message)}\n")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """`--option=--` means the text `--`; argparse makes an empty list of it."""
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Fails where the text cannot be written, as on a full disk; argparse would hide it."""
        print(message, end="", file=file or sys.stderr)
