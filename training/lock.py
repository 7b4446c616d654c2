"""One training at a time in a folder.

The lock is the system's, so it ends with the process, however that ends. Where folders can be
locked it is on the folder itself, and no file of it stays behind. On Windows it is on a file.

Left out: file systems without locks. There, nothing keeps two trainings apart.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils import UNFINISHED

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOCK_FILE = UNFINISHED + "training"  # where a folder cannot be locked itself
TAKEN = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)


@contextmanager
def only_training_in(folder: Path) -> Iterator[None]:
    """Make `folder` if need be, and keep every other training out of it meanwhile.

    If the folder is new, and still empty at the end, it is removed. Raises OSError if another
    training has it, or if it cannot be made or written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"--out {folder}: it cannot be written to")
        with _locked(folder):
            yield
    finally:
        for path in made:
            with suppress(OSError):  # it is not empty, or somebody else has removed it
                path.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock, if the file system has one. Raises OSError if another process holds it."""
    if fcntl:
        path, flags = folder, os.O_RDONLY
    else:
        path, flags = folder / LOCK_FILE, os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags)
    try:
        _try_to_lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)
        if not fcntl:
            with suppress(OSError):  # another process is just opening it
                path.unlink()


def _try_to_lock(descriptor: int, folder: Path) -> None:
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in TAKEN:
            raise OSError(f"another training is running in {folder}: name another --out") from None
