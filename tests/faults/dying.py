"""train.py, which dies while it writes: `python dying.py MOMENT FOLDER`, then train.py's arguments.

MOMENT is one of

- `operation:N`: the process ends just before it opens, renames or removes something in
  FOLDER for the N-th time (N = 0: never; then it prints how often it did);
- `bytes:N`: the system kills it at the write that makes a file longer than N bytes;
- `full:N`: that write fails, as on a full disk.
"""

import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEAD = 77  # exit status
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
WRITING = os.O_WRONLY | os.O_RDWR


def die_at_operation(number: int, folder: str) -> None:
    n_operations = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal n_operations
        if event not in OPERATIONS or not str(arguments[0]).startswith(folder):
            return
        if event == "open" and not (arguments[2] & WRITING):
            return
        n_operations += 1
        if n_operations == number:
            os._exit(DEAD)

    sys.addaudithook(hook)
    if number == 0:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        print(n_operations)
        sys.exit()


def limit_file_size(n_bytes: int, is_killed: bool) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if is_killed else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def main() -> None:
    moment, folder, *sys.argv[1:] = sys.argv[1:]
    sys.argv[0] = "train.py"
    sys.path.insert(0, str(ROOT))
    kind, _, number = moment.partition(":")
    if kind == "operation":
        die_at_operation(int(number), folder)
    else:
        limit_file_size(int(number), is_killed=kind == "bytes")
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


if __name__ == "__main__":
    main()
