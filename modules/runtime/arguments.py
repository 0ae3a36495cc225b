"""Argument parsing in which a mistake is one line."""

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn

from modules.runtime.errors import UserError


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors, and which takes no abbreviated options.

    An abbreviation would be a misspelt option that is silently taken for another.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        if found := re.fullmatch(
            r"argument (--\w+).*: expected (?:one|at least one) argument", message
        ):
            message += f"; one that starts with a dash is given as {found[1]}=-value"
        raise UserError(f"{message} (--help lists what there is)")


def path_argument(text: str) -> Path:
    """The type of a positional path: Path, but "" is refused, which Path takes for the current one.

    It is what a shell makes of "$ROOT" when the variable was never set.
    """
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return Path(text)
