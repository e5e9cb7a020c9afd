"""The parser of the commands: its errors are one line, and a scenario's file stands for options."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, TypeAlias

from specsim.checks import SpecsimError, one_line, quoted

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


MISSING = "the following arguments are required: "
UNKNOWN = "unrecognized arguments: "  # how argparse begins


class Parser(argparse.ArgumentParser):
    """Prints an error of the arguments in one line, like every other error.

    `--scenario FILE` gives the options that a TOML file names, where the command has them and the
    command line does not give them. `not_from_files` are options that mean something else here.
    """

    not_from_files: frozenset[str] = frozenset()
    words: Sequence[str] = ()  # that are parsed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, after the words that the scenario's file stands for."""
        words = list(sys.argv[1:] if args is None else args)
        self.words = [word for word in words if isinstance(word, str)]
        if not any(_may_be_scenario(word) for word in words if isinstance(word, str)):
            return super().parse_known_args(words, namespace)
        if not any(action.dest == "scenario" for action in self._actions):
            return super().parse_known_args(words, namespace)
        given = self._given(words)
        told = [] if given.get("scenario") is None else self._from_file(given)
        return super().parse_known_args([*told, *words], namespace)

    def _given(self, words: Sequence[str]) -> dict[str, Any]:
        """What the words give, without defaults and without what is required."""
        before = [(action, action.default, action.required) for action in self._actions]
        for action in self._actions:
            action.default, action.required = argparse.SUPPRESS, False
        try:
            return vars(super().parse_known_args(words)[0])
        finally:
            for action, default, required in before:
                action.default, action.required = default, required

    def _from_file(self, given: dict[str, Any]) -> list[str]:
        """The words that the scenario's file stands for; those of `given` stand for themselves."""
        from specsim.scenario.files import BEST, read_scenario  # rarely needed, slow to import

        settings = read_scenario(given["scenario"])
        taken = {*given, *self.not_from_files}
        for group in self._mutually_exclusive_groups:
            mine = {action.dest for action in group._group_actions}
            taken |= mine if mine & given.keys() else set()
        words: list[str] = []
        for action in self._actions:
            keys = [key for key in settings if _is_called(action, key)]
            if not keys or action.dest in taken:
                continue
            if len(keys) > 1:
                raise SpecsimError(f"{given['scenario']} gives {' and '.join(keys)}, which are one")
            value, option = settings[keys[0]], action.option_strings[0]
            if action.nargs == 0:
                words += [option] if value else []
            elif action.dest == "gamma" and value is None:
                words += [] if action.type is int else [f"{option}={BEST}"]
            elif action.nargs == "+":
                words += [option, *value]
            elif isinstance(action, argparse._AppendAction):
                words += [f"{option}={each}" for each in value]
            elif isinstance(value, tuple):
                words.append(f"{option}={','.join(map(repr, value))}")
            else:
                words.append(f"{option}={value}")
        return words

    def error(self, message: str) -> Any:
        if message.startswith(UNKNOWN):
            message += self._nearest(message.removeprefix(UNKNOWN))
        if message == MISSING + "--target" and self._lacks_accelerator():
            message += ", --accelerator"
        self.exit(2, f"{self.prog}: {one_line(message)}\n")

    def _lacks_accelerator(self) -> bool:
        """Whether neither an accelerator nor a calibration, which names its own, is given."""
        known = "--accelerator" in self._option_string_actions
        given = any(
            word.startswith(("--acc", "--scenario")) or word.endswith(".json")
            for word in self.words
        )
        return known and not given

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """A count may be written as 1e9. Other text is refused as not a whole number."""
        if action.type is not int:
            return super()._get_value(action, arg_string)
        try:
            return int(arg_string)
        except ValueError:
            with suppress(ValueError):
                if (number := float(arg_string)).is_integer():
                    return int(number)
        raise argparse.ArgumentError(action, f"must be a whole number, not {quoted(arg_string)}")

    def _nearest(self, words: str) -> str:
        """Which option may have been meant by the first unknown one; empty if none is near."""
        word = next((each for each in words.split() if each.startswith("--")), "")
        commands = [each.choices.values() for each in self._actions
                    if isinstance(each, argparse._SubParsersAction)]  # fmt: skip
        parsers = [self, *(each for some in commands for each in some)]
        options = [each for parser in parsers for each in parser._option_string_actions]
        near = get_close_matches(word.partition("=")[0][:100], options, n=1, cutoff=0.6)
        return f"; the nearest is {near[0]}" if near else ""

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


def _is_called(action: argparse.Action, key: str) -> bool:
    """Whether a key of a scenario's file means an option: by its field, or as `users` for a batch,
    which is no key of its own."""
    return key == action.dest or (key == "users" and "--users" in action.option_strings)


def _may_be_scenario(word: str) -> bool:
    """Whether a word may be the option `--scenario`, or the beginning of its name."""
    name = word.partition("=")[0]
    return len(name) > 2 and "--scenario".startswith(name)
