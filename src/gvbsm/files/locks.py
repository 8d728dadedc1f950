"""File locks of the operating system, which end with their process."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

log = logging.getLogger("gvbsm")

UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def held(path: Path, timeout: float = -1) -> Iterator[bool]:
    """Hold a lock for the block; it is released when the process ends, even when it is killed.

    On a file system without locks, as some network drives are, the block runs without a lock, and
    the log says so.

    Args:
        path: The file to lock; it is created if it is missing.
        timeout: Seconds to wait for the lock; -1 waits without a limit.

    Yields:
        Whether the lock is held; if not, another process may be in the same block.

    Raises:
        filelock.Timeout: If another process holds the lock all that time.
        OSError: If the file cannot be created.
    """
    # The soft fallback locks by the file's existence, and a killed process leaves the file.
    lock = FileLock(path, timeout=timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        log.warning(
            "the file system of %s has no locks (%s): do not run two commands in this folder at "
            "the same time",
            path.parent,
            error.strerror,
        )
    try:
        yield lock.is_locked
    finally:
        lock.release()
