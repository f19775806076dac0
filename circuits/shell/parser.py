"""The parser of commands: every error takes the same way out, and says what was probably meant."""

import argparse
import re
import sys
from collections.abc import Sequence
from textwrap import wrap
from typing import NoReturn

from patching.files.meant import meant


class Help(argparse.RawDescriptionHelpFormatter):
    """Help whose lines are never broken inside a name: `logprob-diff-per-token`."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """A parser that raises on wrong usage, so that every error takes the same way out."""

    _given: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{message}{self._meant(message)} (see {self.prog} --help)")

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As the method it replaces, but a command says itself what it does not know."""
        self._given = sys.argv[1:] if args is None else args
        parsed, unknown = super().parse_known_args(args, namespace or argparse.Namespace())
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def _meant(self, message: str) -> str:
        """The option or choice that a message of argparse is probably about."""
        if message.startswith("unrecognized arguments: "):
            given = message.partition(": ")[2].split()[0].partition("=")[0]
            return meant(given, self._option_string_actions)
        if message.startswith("the following arguments are required"):
            return self._misspelt()
        choices = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        return meant(choices[1], re.findall(r"[\w-]+", choices[2])) if choices else ""

    def _misspelt(self) -> str:
        """The first option given that there is not: what is missing is probably what it was for."""
        options = [word.partition("=")[0] for word in self._given if word.startswith("--")]
        known = self._option_string_actions
        wrong = [one for one in options if not any(name.startswith(one) for name in known)]
        return f"; there is no {wrong[0]}{meant(wrong[0], known)}" if wrong else ""
