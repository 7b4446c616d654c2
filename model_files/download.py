"""One file, fetched over HTTP.

The bytes go to `<name>.part`, which a later attempt, or a later run, continues. Beside it,
`<name>.part.etag` has the ETag that the server gave this version of the file: if the file on the
server has changed since, all of it is fetched again.

Left out: passwords (`~/.netrc` is not read), and a limit on the time that a server takes for the
headers of a response. One that sends a byte of them a second is waited for, until Ctrl-C.

Source: RFC 9110, "HTTP Semantics", sections 13.1.5 (If-Range) and 14 (ranges).
"""

import hashlib
import re
import time
from pathlib import Path
from typing import NamedTuple

PAUSES = (0.5, 1, 2, 4)  # seconds before the second, third, ... attempt
MAX_REDIRECTS = 5
CHUNK_SIZE = 1 << 16
CONNECT_TIMEOUT = 5  # seconds
# A server has this long to begin its response, and then for each so many bytes of it. One that
# sends a byte a second is so left after a minute, not after years.
PROGRESS_SECONDS, PROGRESS_BYTES = 60, 1 << 16


class PublishedFile(NamedTuple):
    """A file to fetch, with its size in bytes and its SHA-256 where they are known."""

    name: str
    size: int | None = None
    sha256: str | None = None


class Refused(OSError):
    """The server can be reached, but refuses to send the file, or sends a page about it."""


class NotFound(Refused):
    """The server says that there is no such file."""


class _Trouble(Exception):
    """An error that the next attempt may not meet."""


class _NoResponse(_Trouble):
    """The server was asked, and sent no response."""


class _Unreachable(_NoResponse):
    """There is no connection to the server, or no secure one."""


class _Busy(_Trouble):
    """The server says that it cannot send the file now."""


class Part:
    """A file under its temporary name, with the ETag of this version of it."""

    def __init__(self, path: Path):
        self.final_path = path
        self.path = Path(f"{path}.part")
        self._etag_path = Path(f"{path}.part.etag")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def etag(self) -> str:
        """ "" if the server gave none."""
        return self._etag_path.read_text("ascii") if self._etag_path.is_file() else ""

    def start_over(self, etag: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.discard()
        if etag:
            self._etag_path.write_text(etag, "ascii")

    def keep(self) -> None:
        """Give the whole file its name."""
        self._etag_path.unlink(missing_ok=True)  # first: later nobody would look for it
        self.path.replace(self.final_path)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)  # first, so that no old bytes get a new ETag
        self._etag_path.unlink(missing_ok=True)


def fetch(url: str, path: Path, file: PublishedFile) -> Part:
    """Fetch a file to `<path>.part` -> that part, whole, and as published where that is known.

    There are several attempts, with growing pauses: any number, as long as the file grows by
    PROGRESS_BYTES in a few of them. If there never was a connection, there is most likely no
    network, and we give up soon.
    Raises ConnectionError if the server never responds, Refused if it refuses to send the file,
    OSError for any other failure.
    """
    part = Part(path)
    n_failures = 0  # since the file last grew by that
    most_bytes = 0
    had_connection = had_response = False
    while part.size != file.size:  # it may be whole already
        try:
            file = _fetch_rest(url, part, file)
            break
        except _Trouble as trouble:
            last_trouble = trouble
        if part.size >= most_bytes + PROGRESS_BYTES:
            most_bytes = part.size
            n_failures = 0
        n_failures += 1
        had_connection |= not isinstance(last_trouble, _Unreachable)
        had_response |= not isinstance(last_trouble, _NoResponse)
        pauses = PAUSES if had_connection else PAUSES[:1]
        if n_failures > len(pauses):
            raise _final_error(url, last_trouble, had_response)
        time.sleep(pauses[n_failures - 1])
    if file.sha256 and file.sha256 != _sha256(part.path):
        part.discard()
        raise OSError(f"{url} is not the published file (wrong SHA-256), and was deleted")
    return part


def _final_error(url: str, last_trouble: _Trouble, had_response: bool) -> OSError:
    if not had_response:
        return ConnectionError(f"cannot reach {url}: {last_trouble}")
    if isinstance(last_trouble, _Busy):
        return Refused(f"{url}: {last_trouble}")
    return OSError(f"cannot fetch {url}: {last_trouble}; run again to continue")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------- one attempt


def _fetch_rest(url: str, part: Part, file: PublishedFile) -> PublishedFile:
    """Ask once for the rest of a file, and append it to the part.

    Returns `file` with what the Hub says about it. Raises _Trouble if another attempt may succeed.
    """
    import requests
    import urllib3

    with requests.Session() as session:
        session.max_redirects = MAX_REDIRECTS
        session.auth = lambda request: request  # else requests sends the passwords in ~/.netrc
        session.rebuild_auth = _check_redirect  # which requests calls before it follows one
        headers = _request_headers(part, file)
        timeouts = (CONNECT_TIMEOUT, PROGRESS_SECONDS)
        try:
            response = session.get(url, headers=headers, timeout=timeouts, stream=True)
        except requests.TooManyRedirects as error:
            raise Refused(f"{url}: {error}") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise _error_without_response(url, error) from None
        with response:
            if response.status_code == 416 and part.size:  # it is as long as the file, or longer
                part.discard()
                return _fetch_rest(url, part, file)
            for each in (*response.history, response):
                file = _with_size_and_hash(file, each.headers)
            _check_status(response, url)
            start, size = _start_and_size(response, url, part, file)
            try:
                _append(response, part, start, size)
            except urllib3.exceptions.HTTPError as error:
                raise _Trouble(str(error)) from None
            except OSError as error:
                raise OSError(f"cannot write {part.path}: {error.strerror}") from None
    if part.size != size:
        raise _Trouble(f"the connection ended after {part.size} of {size} bytes")
    return file


def _request_headers(part: Part, file: PublishedFile) -> dict[str, str]:
    """Headers that ask for a file from where `part` ends.

    A part is only continued if we can tell that it is of the same file: by its ETag, or in the end
    by a published hash. Otherwise we ask for the whole file.
    """
    headers = {"Accept-Encoding": "identity"}  # a compressed response could not be resumed
    if part.size and (part.etag or file.sha256):
        headers["Range"] = f"bytes={part.size}-"
        if part.etag:
            headers["If-Range"] = part.etag  # if the file has changed, all of it is sent
    return headers


def _check_redirect(request, response) -> None:
    if response.url.startswith("https:") and not request.url.startswith("https:"):
        raise Refused(f"{response.url}: a redirect from https to an address without encryption")


def _error_without_response(url: str, error: Exception) -> OSError | _Trouble:
    """The error to raise for an exception of requests if no response came."""
    if isinstance(error, ValueError):  # an invalid URL: another attempt is of no use
        return OSError(f"{url}: {error}")
    # Where there is no connection, the first argument is an error of urllib3 that has a reason.
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if reason is None:  # the connection was closed, or nothing came in time
        return _NoResponse(str(error))
    return _Unreachable(str(reason))


def _with_size_and_hash(file: PublishedFile, headers) -> PublishedFile:
    """Add the size and SHA-256 in the headers of the Hub, where they are not known already.

    It gives them in the response that redirects to a large file.
    """
    sha256 = headers.get("X-Linked-Etag", "").strip('"')
    if file.sha256 is None and re.fullmatch("[0-9a-f]{64}", sha256):
        file = file._replace(sha256=sha256)
    size = headers.get("X-Linked-Size", "")
    if file.size is None and re.fullmatch(r"\d{1,18}", size):
        file = file._replace(size=int(size))
    return file


def _check_status(response, url: str) -> None:
    """Raise an error unless the response is a file, or the end of one."""
    status = f"{response.status_code} {response.reason}".strip()
    if response.status_code == 429 or response.status_code >= 500:
        raise _Busy(status)
    if response.status_code in (401, 404):  # 401 is the Hub's status for an unknown repository
        raise NotFound(f"{url}: {status}")
    if response.status_code not in (200, 206):
        raise Refused(f"{url}: {status}")
    content_type = response.headers.get("Content-Type", "")
    if content_type.startswith("text/html"):
        raise Refused(f"{url}: the server sends a page ({content_type}) instead of the file")
    encoding = response.headers.get("Content-Encoding", "")
    if encoding not in ("", "identity"):
        raise OSError(f"{url}: the server compresses the file ({encoding}) without being asked")


def _start_and_size(response, url: str, part: Part, file: PublishedFile) -> tuple[int, int]:
    """-> the byte of the file at which the response begins, and the size of the whole file."""
    if response.status_code == 200:  # the whole file, even if we asked for its end
        start = 0
        length = response.headers.get("Content-Length", "")
        size = int(length) if re.fullmatch(r"\d{1,18}", length) else file.size
    else:
        start, size = _continued_range(response, part, file)
    if size is None:
        raise OSError(f"{url}: the server does not say how long the file is")
    if file.size not in (None, size):
        raise OSError(f"{url}: {size} bytes, but it should have {file.size}")
    return start, size


def _continued_range(response, part: Part, file: PublishedFile) -> tuple[int, int]:
    """-> the byte at which the response continues `part`, and the size of the whole file.

    Both are in a header: `Content-Range: bytes 500-999/1000`. If the response does not continue
    `part`, the part is discarded, to start over. So it is if the response does not say that it is
    of the same version, unless a published hash will tell in the end.
    """
    content_range = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", content_range)
    start, last, size = map(int, match.groups()) if match else (-1, -1, -1)
    same_version = file.sha256 is not None or _etag(response) == part.etag
    if not (same_version and start == part.size and start <= last < size):
        part.discard()
        raise _Trouble(f"not the bytes that we asked for: {content_range}")
    return start, size


def _etag(response) -> str:
    """What the server calls this version of the file, "" if it gives no ETag.

    Nor does a weak one (W/"...") count, which files may share that differ in some bytes.
    """
    etag = response.headers.get("ETag", "")
    return etag if re.fullmatch('"[ -~]{1,1000}"', etag) else ""


def _append(response, part: Part, start: int, size: int) -> None:
    """Append a body to the part; empty the part first if the body is the whole file."""
    from tqdm import tqdm

    if start == 0:
        part.start_over(_etag(response))
    bar = tqdm(
        desc=part.final_path.name,
        total=size,
        initial=start,
        unit="B",
        unit_scale=True,
        disable=None,  # shown only on a terminal
    )
    deadline, n_bytes = time.monotonic() + PROGRESS_SECONDS, 0
    with open(part.path, "ab") as opened, bar:
        # `read1` returns what has come, and does not wait for more.
        while chunk := response.raw.read1(CHUNK_SIZE, decode_content=False):
            start += len(chunk)
            if start > size:
                break
            opened.write(chunk)
            bar.update(len(chunk))
            n_bytes += len(chunk)
            if n_bytes >= PROGRESS_BYTES:
                deadline, n_bytes = time.monotonic() + PROGRESS_SECONDS, 0
            elif time.monotonic() > deadline:
                sent = f"less than {PROGRESS_BYTES} bytes in {PROGRESS_SECONDS} seconds"
                raise _Trouble(sent)
    if start > size:
        part.discard()
        raise _Trouble(f"more than the {size} bytes that were announced")
