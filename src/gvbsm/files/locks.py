"""Locks of the operating system, where the file system has them."""

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
    """Hold a lock for the block; a killed process holds none.

    On a file system without locks, as some network drives are, the block runs without one, and the
    log says so.

    Args:
        path: The file that is locked; it is made if it is not there.
        timeout: Seconds to wait for another holder; -1 waits for its end.

    Yields:
        Whether the lock is held, so that no other process can be at work.

    Raises:
        filelock.Timeout: If another process holds it all that time.
        OSError: If the file cannot be made.
    """
    # Without flock, filelock would take the file itself for the lock, which a killed run leaves.
    lock = FileLock(path, timeout=timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        log.warning(
            "the file system of %s has no locks (%s): see to it yourself that no two commands work "
            "in this folder at a time",
            path.parent,
            error.strerror,
        )
    try:
        yield lock.is_locked
    finally:
        lock.release()
