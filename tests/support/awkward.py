"""A disk that refuses to sync folders, and now and then a rename, for a whole process.

Of the standard library alone: the campaign also puts this file's text into a sitecustomize.py,
which Python runs before a `python Trainer.py` of its own.
"""

import errno
import os
import random
import stat
from typing import Any

RENAMES_REFUSED = 0.1  # of all
FOLDER, RENAME = b"f", b"r"  # a byte of the log for each refusal


def install(seed: int, log: str) -> None:
    """From now on this process has such a disk; log: a file that gets a byte for each refusal."""
    rng = random.Random(seed)
    fsync, replace = os.fsync, os.replace
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def sync(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            os.write(descriptor, FOLDER)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(file)

    def rename(source: Any, target: Any, **options: Any) -> None:
        if rng.random() < RENAMES_REFUSED:
            os.write(descriptor, RENAME)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        replace(source, target, **options)

    os.fsync, os.replace = sync, rename
