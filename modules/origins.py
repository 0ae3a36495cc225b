"""Where an option's value came from, told with every error about it.

A value that was typed is known to who typed it. One from a preset, a checkpoint, a default or the
environment is not: the message says whose it is, and what replaces it.
"""

import dataclasses
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from modules.checkpoint import Checkpoint
from modules.options import PRESETS
from modules.runtime.errors import UserError

# Variables of the environment that decide what an option finds here.
ENVIRONMENT = {"device": "CUDA_VISIBLE_DEVICES", "gpu": "CUDA_VISIBLE_DEVICES"}
# What a checkpoint gives besides the model's settings.
ALSO_FROM_CHECKPOINT = ("DR",)


def origin_of(
    name: str, options: Any, typed: Collection[str], checkpoint: Checkpoint | None
) -> str:
    """Where the option's value came from, in words; "" if it was typed.

    options: of the Trainer or the Tester, with what the checkpoint decides filled in
    """
    if name in typed:
        return ""
    if checkpoint is not None:
        resumed = bool(getattr(options, "resume", False))
        decided = (*checkpoint.config.to_dict(), *ALSO_FROM_CHECKPOINT)
        preset = PRESETS.get(getattr(options, "preset", None) or "", {})
        if resumed or (name in decided and (name != "DR" or "DR" not in preset)):
            return f"comes from the checkpoint {checkpoint.path}"
    if name in PRESETS.get(getattr(options, "preset", None) or "", {}):
        return f"comes from --preset {options.preset}"
    if name == "save_root":
        follows = "--ckpt_path" if getattr(options, "ckpt_path", None) else "--DR"
        return f"follows from {follows}"
    return "has its default value"


def with_origins(
    error: UserError, options: Any, typed: Collection[str], checkpoint: Checkpoint | None
) -> str:
    """The message, its first line followed by the origin of the values that it is about.

    These are error.about, and every `--name value` in it with the value that the option has.
    """
    message = str(error)
    first, newline, rest = message.partition("\n")
    fields = {entry.name: entry.metadata for entry in dataclasses.fields(options)}
    about = [error.about] if error.about else []
    for name in fields:
        value = getattr(options, name)
        # Without a value of its own, the folder of the run is derived from other options.
        shown = (
            r"\S" if name == "save_root" and value is None else rf"{re.escape(str(value))}(?!\w)"
        )
        if re.search(rf"--{name} {shown}", message):
            about.append(name)
    told = []
    for name in dict.fromkeys(about):
        if origin := origin_of(name, options, typed, checkpoint):
            # A resumed run keeps the options that would change its numbers.
            fixed = getattr(options, "resume", False) and not fields[name].get("resumable")
            told.append(f"--{name} {origin}" + ("" if fixed else f"; --{name} replaces it"))
        variable = ENVIRONMENT.get(name, "")
        if variable in os.environ:
            told.append(f"the environment has {variable}={os.environ[variable]!r}")
    return f"{first} ({'; '.join(told)}){newline}{rest}" if told else message


@contextmanager
def telling_origins(
    options: Any, typed: Collection[str], checkpoint: Checkpoint | None = None
) -> Iterator[None]:
    """Errors from inside say where the values came from that they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(with_origins(error, options, typed, checkpoint)) from error
