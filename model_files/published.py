"""Where models are published, and how one becomes a model folder.

    124M, 355M, 774M, 1558M    OpenAI's server, or else the same weights on the Hugging Face Hub
    OWNER/NAME                 a repository of the Hub
    any name                   a mirror of OpenAI's files, if the environment has its address

To add another source, write a function like `fetch_from_hub`. For names of its own, say so in
`_source`; for one more place that has the four models, ask it in `fetch_from_openai`. A source
fetches the files that a folder lacks. It lets its ConnectionError and Refused pass, since they mean
that another place could be asked.

The small files are fetched first, and compared with each other before the weights are asked for.
What is fetched gets its names together, when all of it is there and fits, the weights last: so a
folder has a whole model, or none.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from encoder import HUGGING_FACE_LAYOUT, OPENAI_LAYOUT
from model_files.disk import try_lock
from model_files.download import NotFound, PublishedFile, Refused, fetch
from model_files.folder import (
    HUGGING_FACE_FILES,
    LOCK_FILE,
    complete_layout,
    read_config,
    read_small_files,
    what_is_missing,
)
from model_files.safetensors import read_safetensors
from model_files.tf_checkpoint import checkpoint_name, data_size

OPENAI_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"  # or env GPT2_BASE_URL
HUB_URL = "https://huggingface.co"  # or env HF_ENDPOINT


def fetch_model(model_size: str, folder: Path) -> None:
    """Fetch those files of a model that a folder does not have, from where its name says.

    One process fetches at a time, others wait for it. Raises FileNotFoundError for an unknown
    name, and else what the source raises.
    """
    source = _source(model_size)
    if source is None:
        raise FileNotFoundError(
            f"{what_is_missing(folder)}; to download, name one of {', '.join(OPENAI_FILES)}, or "
            "OWNER/NAME for one on the Hugging Face Hub"
        )
    with _only_download_into(folder):
        if complete_layout(folder) is None:  # else the process before us has fetched it
            source(model_size, folder)


def _source(model_size: str) -> Callable[[str, Path], None] | None:
    if "/" in model_size:
        return fetch_from_hub
    if os.environ.get("GPT2_BASE_URL"):
        return fetch_from_mirror
    return fetch_from_openai if model_size in OPENAI_FILES else None


@contextlib.contextmanager
def _only_download_into(folder: Path) -> Iterator[None]:
    """Keep other processes from downloading into a folder; wait while another one does.

    The lock is on a file in the folder, which stays there: it is empty, and means nothing by
    itself. The system ends the lock when the process ends, however it ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK_FILE, "ab")  # noqa: SIM115
    except OSError:  # without a network nothing will be written, and with one that fails too
        yield
        return
    with lock:
        has_waited = False
        while try_lock(lock.fileno()) is False:
            if not has_waited:
                notice = f"{folder}: another process is downloading this model; waiting"
                print(notice, file=sys.stderr)
            has_waited = True
            time.sleep(0.1)
        yield


# ---------------------------------------------------------------- the sources


def fetch_from_openai(model_size: str, folder: Path) -> None:
    """Fetch one of OpenAI's four models: from OpenAI, or else the same weights from the Hub."""
    try:
        _fetch_openai_files(OPENAI_URL, model_size, folder)
        return
    except (ConnectionError, Refused) as error:
        openai_error = error
    repository = SAME_ON_THE_HUB[model_size]
    notice = f"{openai_error}; fetching {repository.name} from the Hugging Face Hub instead"
    try:
        _fetch_repository(repository, folder, notice)
    except (ConnectionError, Refused) as error:
        raise type(error)(f"{openai_error}; {error}") from None


def fetch_from_mirror(model_size: str, folder: Path) -> None:
    """Fetch a model in OpenAI's layout from the address in GPT2_BASE_URL."""
    _fetch_openai_files(os.environ["GPT2_BASE_URL"].rstrip("/"), model_size, folder)


def fetch_from_hub(model_size: str, folder: Path) -> None:
    """Fetch a model OWNER/NAME in Hugging Face's layout."""
    _fetch_repository(HubRepository(model_size), folder)


def _fetch_openai_files(base_url: str, model_size: str, folder: Path) -> None:
    # The weights are the last in each list, here and on the Hub.
    *small_files, weights = OPENAI_FILES.get(model_size) or _published_files(OPENAI_NAMES, {})
    with _files_of_one_model(f"{base_url}/{quote(model_size)}", folder) as fetched:
        paths = {file.name: fetched(file) for file in small_files}
        _, hparams = read_small_files(OPENAI_LAYOUT, paths.__getitem__)
        prefix = checkpoint_name(paths["checkpoint"])
        if prefix != "model.ckpt":
            raise ValueError(f"{paths['checkpoint']} names {prefix or 'nothing'}, not model.ckpt")
        size = data_size(paths["model.ckpt.index"], hparams)
        fetched(weights._replace(size=weights.size or size))


def _fetch_repository(repository: "HubRepository", folder: Path, notice: str = "") -> None:
    """`notice` is printed on standard error once the small files show that the model is there."""
    hub_url = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB_URL
    address = f"{hub_url}/{quote(repository.name)}/resolve/{repository.revision}"
    config, *others, weights = repository.files
    try:
        with _files_of_one_model(address, folder) as fetched:
            read_config(fetched(config))  # another kind of model may lack the other files
            paths = {file.name: fetched(file) for file in (config, *others)}
            _, hparams = read_small_files(HUGGING_FACE_LAYOUT, paths.__getitem__)
            if notice:
                print(notice, file=sys.stderr)
            read_safetensors(fetched(weights), hparams)
    except NotFound as error:
        needed = f"a public repository with {', '.join(HUGGING_FACE_FILES)} is needed"
        hint = "one with only a pickle (pytorch_model.bin) is not read"
        raise NotFound(f"{error}: {needed}; {hint}") from None


@contextlib.contextmanager
def _files_of_one_model(address: str, folder: Path) -> Iterator[Callable[[PublishedFile], Path]]:
    """A function that returns the path of a file: in the folder, or of a part, which it fetches.

    In the end the parts get their names, in the order in which they were fetched. If there is an
    error they are deleted, but for one that is not whole yet, which the next run continues.
    """
    parts = {}

    def fetched(file):
        path = folder / file.name
        if file.name not in parts and not path.is_file():
            parts[file.name] = fetch(f"{address}/{file.name}", path, file)
        return parts[file.name].path if file.name in parts else path

    try:
        yield fetched
    except BaseException as error:
        if isinstance(error, ValueError):  # its traceback keeps the weights mapped, and
            traceback.clear_frames(error.__traceback__)  # Windows removes no such file
        for part in parts.values():
            part.discard()
        if isinstance(error, ValueError):
            raise ValueError(f"{address}: {error}") from None
        raise
    for part in parts.values():
        part.keep()


# ---------------------------------------------------------------- the tables


class HubRepository(NamedTuple):
    """A model on the Hugging Face Hub."""

    name: str  # OWNER/NAME
    revision: str = "main"
    files: tuple[PublishedFile, ...] = tuple(map(PublishedFile, HUGGING_FACE_FILES))


# The weights come last.
OPENAI_NAMES = (
    *("checkpoint", "encoder.json", "hparams.json", "model.ckpt.index", "model.ckpt.meta"),
    *("vocab.bpe", "model.ckpt.data-00000-of-00001"),
)
# Size and SHA-256, as far as they are known.
VOCABULARY = {
    "encoder.json": (1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    "vocab.bpe": (456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
}
CHECKPOINT = (77, "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb")
KNOWN_124M = VOCABULARY | {
    "checkpoint": CHECKPOINT,
    "hparams.json": (90, "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318"),
    "model.ckpt.index": (5215, "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687"),
    "model.ckpt.meta": (471155, "4668c448fa11531fd6700460487f73e82d3272960cea942252f8744bf225c77b"),
    "model.ckpt.data-00000-of-00001": (
        497759232,
        "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118",
    ),
}
KNOWN_355M = VOCABULARY | {
    "checkpoint": CHECKPOINT,
    "hparams.json": (91,),
    "model.ckpt.index": (10399,),
    "model.ckpt.meta": (926519,),
    "model.ckpt.data-00000-of-00001": (1419292672,),
}
KNOWN_774M = VOCABULARY | {"model.ckpt.data-00000-of-00001": (3096120320,)}
KNOWN_1558M = VOCABULARY | {"model.ckpt.data-00000-of-00001": (6230444800,)}
KNOWN_ON_THE_HUB = {
    "config.json": (665, "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4"),
    "vocab.json": VOCABULARY["encoder.json"],
    "merges.txt": VOCABULARY["vocab.bpe"],
    "model.safetensors": (
        548105171,
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    ),
}


def _published_files(names: Sequence[str], known: dict[str, tuple]) -> tuple[PublishedFile, ...]:
    return tuple(PublishedFile(name, *known.get(name, ())) for name in names)


OPENAI_FILES = {
    "124M": _published_files(OPENAI_NAMES, KNOWN_124M),
    "355M": _published_files(OPENAI_NAMES, KNOWN_355M),
    "774M": _published_files(OPENAI_NAMES, KNOWN_774M),
    "1558M": _published_files(OPENAI_NAMES, KNOWN_1558M),
}
SAME_ON_THE_HUB = {
    "124M": HubRepository(
        "openai-community/gpt2",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        _published_files(HUGGING_FACE_FILES, KNOWN_ON_THE_HUB),
    ),
    "355M": HubRepository("openai-community/gpt2-medium"),
    "774M": HubRepository("openai-community/gpt2-large"),
    "1558M": HubRepository("openai-community/gpt2-xl"),
}
