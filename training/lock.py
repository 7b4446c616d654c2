"""One training at a time in a folder.

The lock is the system's, so it ends with the process, however that ends. Where folders can be
locked it is on the folder itself, and no file of it stays behind. On Windows it is on a file.

Left out: file systems without locks. There, nothing keeps two trainings apart.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model_files.disk import UNFINISHED, try_lock

ON_WINDOWS = sys.platform == "win32"
LOCK_FILE = UNFINISHED + "training"  # where a folder cannot be locked itself


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
    if ON_WINDOWS:
        path, flags = folder / LOCK_FILE, os.O_RDWR | os.O_CREAT
    else:
        path, flags = folder, os.O_RDONLY
    descriptor = os.open(path, flags)
    try:
        if try_lock(descriptor) is False:
            raise OSError(f"another training is running in {folder}: name another --out")
        yield
    finally:
        os.close(descriptor)
        if ON_WINDOWS:
            with suppress(OSError):  # another process is just opening it
                path.unlink()
