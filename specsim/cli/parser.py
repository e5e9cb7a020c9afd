"""The parser of the commands: its errors are one line."""

import argparse
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Parser(argparse.ArgumentParser):
    """Prints an error of the arguments in one line, like every other error."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\n")
