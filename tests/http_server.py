"""HTTP servers on loopback: any server, in a thread; one that serves a folder and misbehaves."""

import contextlib
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from socketserver import BaseServer
from typing import TypeVar

Server = TypeVar("Server", bound=BaseServer)

PIECE = 1 << 14  # bytes


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        name = self.path.rsplit("/", 1)[-1]
        server.requests.append((self.path, self.headers.get("Range")))
        server.request_headers.append(dict(self.headers))
        faults = server.faults.get(name, [])
        fault = faults.pop(0) if faults else None
        path = Path(server.folder, self.path.lstrip("/"))
        if fault == "drop":  # the connection, without a word
            self.close_connection = True
        elif fault == "html":
            self.answer(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
        elif isinstance(fault, int) and fault >= 400:
            self.answer(fault, b"no")
        elif self.path in server.redirects:
            location, headers = server.redirects[self.path]
            self.answer(302, b"elsewhere", {"Location": location, **headers})
        elif not path.is_file():
            self.answer(404, b"no such file")
        elif callable(fault):
            fault(self, path.read_bytes())
            self.close_connection = True
        else:
            body = fault if isinstance(fault, bytes) else path.read_bytes()
            self.send_file(body, fault if isinstance(fault, tuple) else ())

    def validators(self, body):
        """The headers that tell this version of a file from others."""
        etag = '"' + hashlib.md5(body).hexdigest() + '"'
        kinds = {
            "etag": {"ETag": etag},
            "weak etag": {"ETag": "W/" + etag},
            "last-modified": {"Last-Modified": self.server.last_modified},
            None: {},
        }
        return kinds[self.server.validator]

    def send_file(self, body, fault):
        server = self.server
        start, total, status, headers = 0, len(body), 200, self.validators(body)
        if fault == ("gzip",) or (server.gzip and "gzip" in self.headers["Accept-Encoding"]):
            return self.answer(200, gzip.compress(body, 1), {"Content-Encoding": "gzip"})
        wanted = self.headers.get("Range") if server.ranges else None
        condition = self.headers.get("If-Range") if server.if_range else None
        if wanted and condition in (None, *headers.values()):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                return self.answer(416, b"", {"Content-Range": f"bytes */{total}"})
            status = 206
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self.answer(status, body[start:], headers, fault)

    def answer(self, status, body, headers=(), fault=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        if fault != ("no length",):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        kind, n = fault if len(fault) == 2 else ("", len(body))
        for start in range(0, n, PIECE):
            self.wfile.write(body[start : min(start + PIECE, n)])
            self.server.release.wait(self.server.pause)
        if kind == "stall":
            self.wfile.flush()
            self.server.release.wait()
        if fault:
            self.close_connection = True


def drip(handler, body):
    """A byte now and then: enough for every single read, and never done."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    _drip(handler, body)


def drip_headers(handler, body):
    handler.send_response(200)
    handler.flush_headers()
    _drip(handler, b"X-Header: " + bytes(100_000))


def _drip(handler, content):
    for byte in content:
        handler.wfile.write(bytes([byte]))
        if handler.server.release.wait(0.02):
            return


def longer_than_announced(handler, body):
    """In chunks, whose end counts, and not what Content-Length says: ten times the file."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(10):
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
    handler.wfile.write(b"0\r\n\r\n")


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, answering in a thread; closed in the end."""
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def serve(folder):
    """A server of `folder`, in a thread, with these attributes:

    url: its address; requests: [(path, Range header or None)] so far; request_headers: all of
    their headers, a dict for each;
    validator: what tells versions of a file apart, "etag", "weak etag", "last-modified" (the
    attribute `last_modified`) or None;
    ranges, if_range: set to False, it ignores Range or If-Range headers;
    pause: seconds to wait after each 16 KB of a body;
    gzip: set to True, it compresses for those who accept that;
    redirects: {path: (location, headers)};
    faults: {file name: [what to do at the first, second, ... request for it]}, each of "drop",
    "html", a status such as 503, ("cut", n) to end the connection after n bytes of the body,
    ("stall", n) to do so only once `release` (an Event) is set, ("no length",), ("gzip",)
    whether accepted or not, other bytes to send, a function of the handler and the file's bytes
    that sends the whole response (`drip` and `longer_than_announced` are two), None for no fault.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # clients that hang up
    server.folder, server.requests, server.request_headers = folder, [], []
    server.faults, server.redirects = {}, {}
    server.validator, server.last_modified = "etag", "Wed, 01 Jan 2020 00:00:00 GMT"
    server.ranges, server.if_range, server.gzip = True, True, False
    server.release, server.pause = threading.Event(), 0
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    with running(server):
        try:
            yield server
        finally:
            server.release.set()
