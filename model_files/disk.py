"""Files on disk: read, mapped into memory, replaced as a whole, locked.

What is written is not forced onto the disk: after a power failure it is up to the file system
whether the old file or the new one is there. A file that is mapped must not be changed in place,
only replaced by renaming: a program that cuts it ends those that have it mapped.
"""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MAX_TEXT_FILE = 100_000_000  # bytes
UNFINISHED = "unfinished-"  # how the name of a file begins while it is being written
LOCKED = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # what locking fails with if another has it


def read_file(path: str | os.PathLike) -> bytes:
    """The content of a file of text, at most 100 MB.

    Raises OSError with the path if it cannot be read, is larger, or is no file.
    """
    size = _file_size(path)
    if size > MAX_TEXT_FILE:
        raise OSError(f"{os.fspath(path)} has {size} bytes, more than {MAX_TEXT_FILE}")
    with open(path, "rb") as file:
        return file.read()


def map_file(path: str | os.PathLike) -> np.ndarray:
    """The bytes of a file, [n] uint8, read-only. They are read from disk when they are first used.

    Raises OSError if it cannot be read or is no file, ValueError if it is empty.
    """
    _file_size(path)
    try:
        # Plain arrays are handed out; the memmap, which knows the file's name, is their `.base`.
        return np.memmap(os.fspath(path), np.uint8, mode="r").view(np.ndarray)
    except ValueError:
        raise ValueError("it is empty") from None
    except OSError as error:
        raise OSError(f"cannot map {path} into memory: {error.strerror}") from None


def _file_size(path: str | os.PathLike) -> int:
    """Raises OSError for a pipe, whose opening would wait, or a device, which may never end."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{os.fspath(path)} is not a file")
    return status.st_size


def parse_json(content: bytes, **options: Any) -> Any:
    """The value of a JSON text in UTF-8; `options` are those of `json.loads`. Raises ValueError.

    >>> parse_json(b"[" * 1_000_000)
    Traceback (most recent call last):
    ValueError: its brackets are nested too deeply
    """
    try:
        return json.loads(str(content, "utf-8"), **options)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def parse_object(content: bytes) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError if it is none, or has a key twice."""

    def unique_keys(pairs):
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = sorted(key for key, _ in pairs)
            doubled = next(left for left, right in pairwise(keys) if left == right)
            raise ValueError(f"the key {doubled!r:.80} comes twice")
        return values

    values = parse_json(content, object_pairs_hook=unique_keys)
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    return values


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path to write to. It is renamed to `path` if all went well, else removed.

    Raises OSError with the name of `path` if it cannot be written. A process that is killed leaves
    the temporary file: its name begins with `UNFINISHED`.
    """
    path = Path(path)
    temporary = path.with_name(f"{UNFINISHED}{os.urandom(4).hex()}-{path.name}")
    try:
        if path.exists() and not path.is_file():  # os.replace would put a file in place of a device
            raise OSError("expected a file there, or nothing")
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):  # it has its name
            temporary.unlink()


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file for this process -> whether it is ours; None where there are no locks.

    The system ends a lock when the file is closed, or the process ends, however that ends.
    """
    try:
        if fcntl is None:  # Windows
            import msvcrt

            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # others cannot use the byte that is locked
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in LOCKED else None
    return True
