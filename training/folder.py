"""The folder --out: one training at a time in it, nothing written over, room for what a run writes.

The lock is the system's and on the folder itself, so it ends with the process, however that ends,
and no file of it stays behind.

Left out: Windows, and file systems without locks. There, nothing keeps two trainings apart.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model_files.disk import UNFINISHED, try_lock
from utils import named


@contextmanager
def only_training_in(folder: Path, resume: bool) -> Iterator[None]:
    """Make `folder` if need be, and keep every other training out of it meanwhile.

    What a killed training left unfinished in it is removed; so is the folder itself, if it is new
    and still empty at the end. Raises OSError if another training has it, if it cannot be made, or
    if there is something in it, unless the run is a resumed one.
    """
    is_new = False
    with suppress(FileExistsError):
        folder.mkdir(parents=True)
        is_new = True
    descriptor = None if os.name == "nt" else os.open(folder, os.O_RDONLY)  # Windows opens none
    if descriptor is not None and try_lock(descriptor) is False:
        os.close(descriptor)
        raise OSError(f"another training is running in {folder}: name another --out")
    try:
        leftovers = list(folder.glob(f"{UNFINISHED}*"))
        if not resume and len(list(folder.iterdir())) > len(leftovers):
            raise FileExistsError(f"{folder} is not empty: name another --out, or --resume it")
        for path in leftovers:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        if descriptor is not None:
            os.close(descriptor)


def check_disk(folder: Path, params: dict) -> None:
    """Raise OSError where a new run would not fit: two checkpoints for a moment, each of parameters
    and two averages, and a model. It would only fail at its first evaluation."""
    needed = 7 * sum(p.nbytes for p in named(params).values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{folder} has {free} bytes left; a run needs {needed}")
