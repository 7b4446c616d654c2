"""Downloads from a hostile server, downloads that are killed, and several downloads at once.

A tiny model is served on loopback. Whatever happens to the first run, the next one, with a good
server, must leave the published files and the empty lock, and nothing else. What only a published
hash could tell is not among the faults: another file of the same kind that fits the rest, and other
bytes in `model.ckpt.meta`, which nobody reads.
"""

import contextlib
import gzip
import itertools
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import utils
from model_files import download
from tests.faults.outcome import CLEAR_ERROR, RIGHT, Case, FaultClass, judge
from tests.fixtures.checkpoints import OPENAI_FILES, assert_same, contents
from tests.fixtures.http_server import drip, longer_than_announced, serve
from tests.fixtures.openai_folder import DATA, openai_files
from tests.fixtures.random_models import random_params

ROOT = Path(__file__).resolve().parents[2]
NAME = "mini"
HPARAMS = {"n_vocab": 260, "n_ctx": 800, "n_embd": 24, "n_head": 3, "n_layer": 2}
ALWAYS = 99  # times: more often than a run asks
CODE = "import sys, utils; utils.load_encoder_hparams_and_params(*sys.argv[1:])"
KILLED = -signal.SIGKILL if hasattr(signal, "SIGKILL") else 1  # the status that is left
# What a run asks of its environment, instead of whatever is set here.
NO_PROXIES = {"no_proxy": "*", "http_proxy": "", "https_proxy": "", "all_proxy": ""}


class Site:
    """A server of the model, and what it should become."""

    def __init__(self, server, files: dict[str, bytes], params: dict):
        self.server, self.files, self.params = server, files, params

    def environment(self) -> dict[str, str]:
        return {**NO_PROXIES, "GPT2_BASE_URL": self.server.url}

    def behave(self) -> None:
        """A good server from now on."""
        server = self.server
        server.faults, server.redirects, server.validator = {}, {}, "etag"
        server.ranges, server.if_range, server.gzip, server.pause = True, True, False, 0
        server.requests.clear()
        server.request_headers.clear()

    def load(self, models_dir: Path, environment: dict[str, str]) -> None:
        """Load the model in this process, downloading it first if need be; wrong is an error."""
        with changed_environment(environment):
            _, hparams, params = utils.load_encoder_hparams_and_params(NAME, str(models_dir))
        if hparams != HPARAMS:
            raise AssertionError(f"other hparams: {hparams}")
        assert_same(params, self.params)

    def heals(self, models_dir: Path) -> str:
        """ "" if a run against a good server ends with the published files, else what is wrong."""
        self.behave()
        try:
            self.load(models_dir, self.environment())
        except Exception as error:
            return f"the next run fails: {type(error).__name__}: {error}"
        return self.what_differs(models_dir)

    def what_differs(self, models_dir: Path) -> str:
        found = contents(models_dir / NAME)
        found.pop("download.lock", None)
        strays = sorted(found.keys() - self.files.keys())
        wrong = sorted(name for name in self.files if found.get(name) != self.files[name])
        return f"strays {strays}, wrong {wrong}" if strays or wrong else ""


@contextlib.contextmanager
def changed_environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def shorter_times() -> Iterator[None]:
    before = download.PAUSES, download.PROGRESS_SECONDS
    download.PAUSES, download.PROGRESS_SECONDS = (0.01,) * 4, 0.3
    try:
        yield
    finally:
        download.PAUSES, download.PROGRESS_SECONDS = before


@contextlib.contextmanager
def site(folder: Path) -> Iterator[Site]:
    params = random_params(HPARAMS)
    files = openai_files(params, HPARAMS)
    (folder / "site" / NAME).mkdir(parents=True)
    for name, content in files.items():
        (folder / "site" / NAME / name).write_bytes(content)
    with serve(folder / "site") as server:
        yield Site(server, files, params)


# ---------------------------------------------------------------- a hostile server
#
# A fault is a function of the server's handler and the bytes of the file: it sends the response.


class Fault(NamedTuple):
    name: str
    respond: Callable
    files: list[str] = OPENAI_FILES  # those it may happen to


def raw(beginning: bytes) -> Callable:
    """These bytes, and then the end of the connection."""
    return lambda handler, body: handler.wfile.write(beginning)


def reset(handler, body) -> None:
    """Half of the file, and then an error at the level of TCP."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
    handler.wfile.write(body[: len(body) // 2])
    no_lingering = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
    handler.connection.close()


def with_headers(*headers: str, status: str = "200 OK", send_body: bool = True) -> Callable:
    """A response with these headers; {n} in one is the length of the file."""

    def respond(handler, body):
        lines = [f"HTTP/1.1 {status}", *(line.format(n=len(body)) for line in headers), "", ""]
        handler.wfile.write("\r\n".join(lines).encode("latin-1"))
        if send_body:
            handler.wfile.write(body)

    return respond


def instead(content: bytes, *headers: str) -> Callable:
    """Other bytes, with the length that they have."""
    length = f"Content-Length: {len(content)}"

    def respond(handler, body):
        handler.wfile.write("\r\n".join(["HTTP/1.1 200 OK", length, *headers, "", ""]).encode())
        handler.wfile.write(content)

    return respond


def cut(handler, body) -> None:
    """The file, with an end to the connection somewhere."""
    handler.send_file(
        body, ("cut", random.Random(len(handler.server.requests)).randrange(len(body)))
    )


def half_as_if_whole(handler, body) -> None:
    handler.answer(200, body[: len(body) // 2])


def more_than_whole(handler, body) -> None:
    handler.answer(200, body + body)


def chunks(handler, body, end: bytes = b"0\r\n\r\n") -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body) + end)


def broken_chunks(handler, body) -> None:
    chunks(handler, body, end=b"xyz\r\n\r\n")


def unfinished_chunks(handler, body) -> None:
    chunks(handler, body, end=b"100\r\nonly this")


def redirect(location: str) -> Callable:
    return with_headers(
        f"Location: {location}", "Content-Length: 0", status="302 Found", send_body=False
    )


def redirect_to_itself(handler, body) -> None:
    handler.answer(302, b"", {"Location": handler.path})


def redirect_further_and_further(handler, body) -> None:
    handler.answer(302, b"", {"Location": f"/{len(handler.server.requests)}{handler.path}"})


def silence(handler, body) -> None:
    handler.server.release.wait(0.5)


def silence_in_the_middle(handler, body) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.server.release.wait(0.5)


def half_of_another_version(handler, body) -> None:
    """It is as long as the file itself, which is there for the rest."""
    server = handler.server
    now, server.last_modified = server.last_modified, "Tue, 01 Jan 2019 00:00:00 GMT"
    handler.send_file(body[::-1], ("cut", len(body) // 2))
    server.last_modified = now


def rest_from(begin: int, end: int, total: int) -> Callable:
    """The end of the file, if it was asked for, in a response that claims another range."""

    def respond(handler, body):
        if "Range" not in handler.headers:
            return handler.send_file(body, ("cut", len(body) // 2))
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        last = len(body) - 1 + end
        content_range = f"bytes {start + begin}-{last}/{len(body) + total}"
        headers = {"Content-Range": content_range, **handler.validators(body)}
        handler.answer(206, body[start:], headers)

    return respond


def rest_without_validator(handler, body) -> None:
    """As a server does that knows of ranges and of nothing else: it splices versions."""
    if "Range" not in handler.headers:
        return half_of_another_version(handler, body)
    start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    content_range = f"bytes {start}-{len(body) - 1}/{len(body)}"
    handler.answer(206, body[start:], {"Content-Range": content_range})


def range_unasked(content_range: str) -> Callable:
    def respond(handler, body):
        handler.answer(206, body, {"Content-Range": content_range.format(n=len(body))})

    return respond


PAGE = b"<!doctype html>\n<title>Log in</title>"
BOMB = gzip.compress(bytes(20_000_000))
READ = [name for name in OPENAI_FILES if name != "model.ckpt.meta"]
TEXTS = [name for name in READ if name != DATA]
JSON = ["encoder.json", "hparams.json"]
LENGTH = "Content-Length: {n}"
FAULTS = [
    Fault("no response", raw(b"")),
    Fault("half a status line", raw(b"HTTP/1.1 20")),
    Fault("half a header", raw(b"HTTP/1.1 200 OK\r\nContent-Le")),
    Fault("no HTTP", raw(b"SSH-2.0-OpenSSH_9.6\r\n")),
    Fault("HTTP/0.9", raw(b"hello\n")),
    Fault("a TLS alert", raw(b"\x15\x03\x03\x00\x02\x02\x28")),
    Fault("a reset connection", reset),
    Fault("the end, somewhere in the body", cut),
    Fault("half of the file as if it were whole", half_as_if_whole, [DATA, *TEXTS[:-1]]),
    Fault("the file twice", more_than_whole, JSON),
    Fault("Content-Length: 0", with_headers("Content-Length: 0", send_body=False), READ),
    Fault("Content-Length: 0, and a body", with_headers("Content-Length: 0"), READ),
    Fault("a negative length", with_headers("Content-Length: -5")),
    Fault("a length that is no number", with_headers("Content-Length: many")),
    Fault("a length of 30 digits", with_headers("Content-Length: " + "9" * 30)),
    Fault("a length of 5000 digits", with_headers("Content-Length: " + "9" * 5000)),
    Fault("a terabyte announced", with_headers("Content-Length: 1000000000000")),
    Fault("two lengths", with_headers(LENGTH, "Content-Length: 7")),
    Fault("a longer length", with_headers("Content-Length: {n}0")),
    Fault("a length in hexadecimal", with_headers("Content-Length: 0x10")),
    Fault("no length", with_headers()),
    Fault("bytes after the body", with_headers(LENGTH, send_body=True), [DATA]),
    Fault("chunks without a length", chunks),
    Fault("chunks with a broken size", broken_chunks),
    Fault("chunks that end early", unfinished_chunks),
    Fault("chunks beyond the announced length", longer_than_announced),
    Fault("gzip, unasked", instead(gzip.compress(b"{}"), "Content-Encoding: gzip")),
    Fault("a bomb in gzip", instead(BOMB, "Content-Encoding: gzip")),
    Fault("a bomb in two codings", instead(BOMB, "Content-Encoding: identity, gzip")),
    Fault("broken deflate", instead(b"xyz", "Content-Encoding: deflate")),
    Fault("an unknown coding", with_headers(LENGTH, "Content-Encoding: rot13")),
    Fault("a page", instead(PAGE, "Content-Type: text/html; charset=utf-8")),
    Fault("a page as text/plain", instead(PAGE, "Content-Type: text/plain"), READ),
    Fault("a page after white space", instead(b"\xef\xbb\xbf \r\n" + PAGE), READ),
    Fault("an error in JSON", instead(b'{"error": "not found"}'), TEXTS),
    Fault("an error in words", instead(b"This service is not available."), READ),
    Fault("empty JSON", instead(b"{}"), JSON),
    Fault("a list in JSON", instead(b"[1, 2]"), JSON),
    Fault("numbers as text", instead(b'{"n_vocab": "260"}'), ["hparams.json"]),
    Fault("random bytes", instead(random.Random(0).randbytes(500)), READ),
    Fault("zeros", instead(bytes(500)), READ),
    *[
        Fault(f"status {status}", with_headers("Content-Length: 0", status=status, send_body=False))
        for status in (
            *("100 Continue", "103 Early Hints", "204 No Content", "300 Choose", "304 Same"),
            *("400 Bad", "401 Who", "403 No", "404 Not Found", "407 Proxy", "408 Slow", "410 Gone"),
            *("416 Range", "418 Teapot", "429 Often", "451 Law", "500 Oh", "502 Gateway"),
            *("503 Busy", "511 Log In", "599 ?", "999 ?"),
        )
    ],
    Fault("a status without a reason", raw(b"HTTP/1.1 200\r\n\r\n")),
    Fault("a status that is no number", raw(b"HTTP/1.1 OK\r\n\r\n")),
    Fault("a redirect without a location", with_headers(status="302 Found")),
    Fault("a redirect to nothing", redirect("")),
    Fault("a redirect to itself", redirect_to_itself),
    Fault("redirects without end", redirect_further_and_further),
    Fault("a redirect to no address", redirect("http://[")),
    Fault("a redirect to a host of dots", redirect("http://a..b/")),
    Fault("a redirect to no port", redirect("http://127.0.0.1:99999/")),
    Fault("a redirect to a closed port", redirect("http://127.0.0.1:9/")),
    Fault("a redirect to a file", redirect("file:///etc/passwd")),
    Fault("a redirect to FTP", redirect("ftp://127.0.0.1:9/x")),
    Fault("a redirect to the same by TLS", redirect("https://127.0.0.1:9/x")),
    Fault("a redirect in strange letters", redirect("http://127.0.0.1:9/\xe9\xff")),
    Fault("200 headers", with_headers(LENGTH, *["X-A: b"] * 200)),
    Fault("a header of 100 KB", with_headers(LENGTH, "X-A: " + "b" * 100_000)),
    Fault("a header without a colon", with_headers("nonsense", LENGTH)),
    Fault("a strange ETag", with_headers(LENGTH, 'ETag: "\xe9\x01"')),
    Fault("an ETag of 10 KB", with_headers("Content-Length: {n}0", f'ETag: "{"e" * 10_000}"')),
    Fault("strange dates", with_headers("Content-Length: {n}0", "Last-Modified: x", "Date: 7")),
    Fault("a wrong linked hash", with_headers(LENGTH, f"X-Linked-Etag: {'0' * 64}")),
    Fault("a wrong linked size", with_headers(LENGTH, "X-Linked-Size: 7")),
    Fault("another version first", half_of_another_version),
    Fault("another version first, and no validator", rest_without_validator),
    Fault("a range from elsewhere", rest_from(-1, 0, 0)),
    Fault("a range of a longer file", rest_from(0, 0, 5)),
    Fault("a range of a shorter file", rest_from(0, 0, -5)),
    Fault("a range that ends before it begins", rest_from(0, -(10**6), 0)),
    Fault("a range that was not asked for", range_unasked("bytes 5-{n}/{n}")),
    Fault("a range without a total", range_unasked("bytes 0-5/*")),
    Fault("a range that is none", range_unasked("bytes")),
    Fault("a byte now and then", drip),
    Fault("silence", silence),
    Fault("silence in the middle", silence_in_the_middle),
]
ADDRESSES = [
    *("nowhere", "http://[::1", "file:///etc", "http://exa mple/", "http://127.0.0.1:99999"),
    *("http://.", "http://a..b", "ftp://127.0.0.1:9", "http://127.0.0.1:9", "http://", "//x", "."),
    *("http://no-such-host.invalid", "https://127.0.0.1:9", "http://\xe9\x7f", "http://%zz/"),
]
PROXIES = [
    "nonsense",
    "http://127.0.0.1:9",
    "socks5://127.0.0.1:9",
    "http://[",
    "ftp://x",
    "http://",
]


def run_under_fault(site: Site, models_dir: Path, environment: dict[str, str]) -> str:
    """Run once as things are, and once more with a good server -> how that ended."""
    with shorter_times():
        outcome = RIGHT
        try:
            site.load(models_dir, {**site.environment(), **environment})
        except (OSError, ValueError) as error:
            outcome = CLEAR_ERROR if str(error) else f"{type(error).__name__} without a word"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        sizes = [len(content) for content in contents(models_dir / NAME).values()]
        if sum(sizes) > 2 * sum(map(len, site.files.values())):
            return f"the folder has {sum(sizes)} bytes"
        if outcome == RIGHT and site.what_differs(models_dir):
            return f"status 0, but {site.what_differs(models_dir)}"
        return site.heals(models_dir) or outcome


def hostile_servers(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Each fault once, in any order, before any of them comes again."""
    settings = [{"GPT2_BASE_URL": address} for address in ADDRESSES]
    settings += [{"http_proxy": proxy, "no_proxy": ""} for proxy in PROXIES]
    with site(folder) as mini:
        for i in itertools.count():
            faults = rng.sample(FAULTS + settings, len(FAULTS + settings))
            for k, fault in enumerate(faults):
                models_dir = folder / f"models-{i}-{k}"
                if isinstance(fault, Fault):
                    yield fault_case(mini, models_dir, rng, fault)
                else:
                    yield setting_case(mini, models_dir, fault)


def setting_case(mini: Site, models_dir: Path, setting: dict[str, str]) -> Case:
    def run():
        mini.behave()
        return run_under_fault(mini, models_dir, setting)

    return Case(str(setting), run)


def fault_case(mini: Site, models_dir: Path, rng: random.Random, fault: Fault) -> Case:
    name = rng.choice(fault.files)
    n_times = rng.choice([1, 2, ALWAYS])
    validator = rng.choice(["etag", "weak etag", "last-modified", None])
    if_range = rng.random() < 0.7

    def run():
        mini.behave()
        server = mini.server
        server.validator, server.if_range = validator, if_range
        server.faults[name] = [fault.respond] * n_times
        return run_under_fault(mini, models_dir, {})

    about = f"{fault.name}, {n_times} times, for {name}; validator {validator}, {if_range=}"
    return Case(about, run)


# ---------------------------------------------------------------- killed, and several at once


def start(mini: Site, models_dir: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, NAME, str(models_dir)],
        cwd=ROOT,
        env={**os.environ, **mini.environment()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_request(mini: Site, process: subprocess.Popen) -> None:
    while not mini.server.requests and process.poll() is None:
        time.sleep(0.005)


def kills(rng: random.Random, folder: Path) -> Iterator[Case]:
    """A process is killed at a random moment, from its first request to shortly after its last."""
    seconds = 0.25  # what a download takes
    with site(folder) as mini:
        pause = seconds / (len(mini.files[DATA]) / (1 << 14) + len(OPENAI_FILES))
        for i in itertools.count():
            after = rng.uniform(0, 1.3 * seconds)

            def run(models_dir=folder / f"models-{i}", after=after):
                mini.behave()
                mini.server.pause = pause
                process = start(mini, models_dir)
                wait_for_request(mini, process)
                time.sleep(after)
                process.kill()
                _, stderr = process.communicate()
                if process.returncode not in (0, KILLED):
                    return f"status {process.returncode} before the kill: {stderr[-300:]!r}"
                return mini.heals(models_dir) or RIGHT

            yield Case(f"a kill {after:.3f} s after the first request", run)


def four_at_once(rng: random.Random, folder: Path) -> Iterator[Case]:
    """In every other round, one of the four is killed."""
    with site(folder) as mini:
        for i in itertools.count():
            delays = [rng.uniform(0, 0.3) for _ in range(4)]
            killed = rng.randrange(4) if i % 2 else None
            after = rng.uniform(0, 0.5)

            def run(models_dir=folder / f"models-{i}", delays=delays, killed=killed, after=after):
                mini.behave()
                mini.server.pause = 0.03
                processes = []
                for delay in delays:
                    processes.append(start(mini, models_dir))
                    time.sleep(delay)
                if killed is not None:
                    wait_for_request(mini, processes[killed])
                    time.sleep(after)
                    processes[killed].kill()
                errors = [process.communicate()[1] for process in processes]
                for k, process in enumerate(processes):
                    outcome = judge(process.returncode, errors[k], is_right=True)
                    if k != killed and outcome != RIGHT:
                        return f"process {k}: {outcome}"
                n_requests = len(mini.server.requests)
                if killed is None and n_requests != len(OPENAI_FILES):
                    return f"{n_requests} requests"
                return mini.what_differs(models_dir) or RIGHT

            about = "" if killed is None else f", number {killed} killed after {after:.3f} s"
            yield Case(f"four at once{about}", run)


HOSTILE_SERVERS = FaultClass("a hostile server of a download", 600, 40, hostile_servers)
KILLS = FaultClass("a download killed at a random moment", 300, 6, kills)
FOUR_AT_ONCE = FaultClass("four downloads into one folder", 20, 2, four_at_once)
