"""The page, served on this machine: edit the prompt in it, and it is computed again.

Two addresses, and nothing else:

    GET /?token=TOKEN             the page of the prompt that the server was started with
    POST /compute                 {"prompt": "...", "n_tokens": 8} -> the data of another page,
      X-Token: TOKEN              or {"error": "one line"} with another status than 200

That a server listens on 127.0.0.1 only does not keep others out. Any page that is open in the
browser can send requests there, and so can every program and user of this machine. Therefore:

- `Host` must be this server's own name: otherwise a stranger's page could make its own name lead
  here, and would then count as the same origin (DNS rebinding).
- A POST must come from the page itself, where the browser says whence it comes (`Origin`,
  `Sec-Fetch-Site`).
- Every request needs the token, which is drawn anew at each start.
- What a request may take is limited: bytes, seconds, and how many are served at once.

One lock guards the model: watching it replaces functions in the whole process.

Left out: HTTPS, several requests on one connection, serving other machines.
"""

import json
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RD, SHUT_WR, socket
from urllib.parse import parse_qs

from command_line import notice
from explaining.page import page_html
from explaining.page_data import N_TOKENS_TO_GENERATE, page_data

MAX_BODY = 1 << 16  # bytes of a request's body: some ten times the longest text a model can see
MAX_CONNECTIONS = 16
SECONDS_TO_READ = 10.0  # how long a client may take to send its request
SECONDS_TO_WRITE = 30.0  # and to receive the answer

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the token is in the address
    "X-Content-Type-Options": "nosniff",
}


def serve(
    model: tuple, prompt: str, n_tokens_to_generate: int = N_TOKENS_TO_GENERATE, **options
) -> None:
    """Serve the page of a prompt, and of those that are typed into it, until Ctrl-C.

    The arguments are those of `page_data`. The address is printed on standard output once the page
    can be had there, all else on standard error.
    Raises ValueError for a prompt that the model cannot read, KeyboardInterrupt at Ctrl-C.
    """
    with page_server(model, prompt, n_tokens_to_generate, **options) as server:
        print(server.url, flush=True)
        notice("open this address in a browser; Ctrl-C ends it")
        server.serve_forever(poll_interval=0.1)


def page_server(
    model: tuple, prompt: str, n_tokens_to_generate: int = N_TOKENS_TO_GENERATE, **options
) -> "PageServer":
    """The server of `serve`, with the first page computed. It answers once it `serve_forever`s."""

    def compute(prompt: str, n_tokens: int) -> dict:
        return page_data(prompt, model, n_tokens, **options)

    first = compute(prompt, n_tokens_to_generate)

    def page(token: str) -> str:
        return page_html(first, served={"token": token})

    return PageServer(page, compute, max_n_tokens=model[1]["n_ctx"])


class PageServer(ThreadingHTTPServer):
    """An HTTP server on 127.0.0.1, which knows nothing of models.

    page(token) makes the HTML; compute(prompt, n_tokens) makes data for JSON, is called by one
    thread at a time, and raises ValueError for what the user did wrong. n_tokens is from 0 to
    max_n_tokens. url: where to open it, with the token.
    """

    daemon_threads = True  # Ctrl-C does not wait for answers under way
    request_queue_size = MAX_CONNECTIONS  # connections that wait to be accepted
    allow_reuse_address = False  # on Windows it would let another program take over the port

    def __init__(
        self,
        page: Callable[[str], str],
        compute: Callable[[str, int], dict],
        max_n_tokens: int,
    ):
        super().__init__(("127.0.0.1", 0), Handler)  # 0: a free port
        self.token = secrets.token_urlsafe(24)
        self.page, self.compute, self.max_n_tokens = page, compute, max_n_tokens
        self.lock = threading.Lock()  # around `compute`
        self.closing = False
        self.free_connections = threading.Semaphore(MAX_CONNECTIONS)
        self.deadlines: dict[socket, float] = {}  # until when each connection may send
        port = self.server_address[1]
        self.hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self.url = f"http://127.0.0.1:{port}/?token={self.token}"

    def verify_request(self, request: socket, client_address: tuple) -> bool:
        """Whether there is room for another connection. If so, its time begins."""
        if not self.free_connections.acquire(blocking=False):
            return False
        self.deadlines[request] = time.monotonic() + SECONDS_TO_READ
        return True

    def process_request(self, request: socket, client_address: tuple) -> None:
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            self.make_room(request)
            raise

    def process_request_thread(self, request: socket, client_address: tuple) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.make_room(request)

    def make_room(self, request: socket) -> None:
        self.deadlines.pop(request, None)
        self.free_connections.release()

    def service_actions(self) -> None:
        """Called several times a second: hang up on clients that send too slowly.

        A timeout of the socket is not enough: it begins again with each byte.
        """
        now = time.monotonic()
        for connection, deadline in list(self.deadlines.items()):
            if now > deadline:
                self.deadlines.pop(connection, None)
                with suppress(OSError):  # it has just closed
                    connection.shutdown(SHUT_RD)  # its thread reads the end of the request

    def handle_error(self, request: socket, client_address: tuple) -> None:
        """An error outside of `compute`: a client that hung up, or one line for the terminal."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.report(error)

    def report(self, error: BaseException) -> None:
        if not self.closing:
            notice(" ".join(f"{type(error).__name__}: {error}".split()))

    def server_close(self) -> None:
        self.closing = True
        super().server_close()


class Refused(Exception):
    """A request that is not answered as asked: the status and one line for the user."""

    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class Handler(BaseHTTPRequestHandler):
    """One request. The base class reads its first line and headers and calls `do_GET`, `do_POST`
    or, for what it cannot read and all other methods, `send_error`."""

    server: PageServer
    timeout = SECONDS_TO_WRITE

    def do_GET(self) -> None:
        try:
            self.check_host()
            path, _, query = self.path.partition("?")
            if path == "/compute":
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "/compute takes POST")
            if path != "/":
                raise Refused(HTTPStatus.NOT_FOUND, "there is nothing at this address")
            self.check_token(parse_qs(query).get("token", []))
            html = self.server.page(self.server.token)
        except Refused as refused:
            self.refuse(refused)
        else:
            self.answer(HTTPStatus.OK, "text/html", html)

    def do_POST(self) -> None:
        try:
            self.check_host()
            if self.path == "/" or self.path.startswith("/?"):
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "the page takes GET")
            if self.path != "/compute":
                raise Refused(HTTPStatus.NOT_FOUND, "there is nothing at this address")
            self.check_origin()
            self.check_token(self.headers.get_all("X-Token", []))
            text = self.compute(*self.read_question())
        except Refused as refused:
            self.refuse(refused)
        else:
            self.answer(HTTPStatus.OK, "application/json", text)

    # ------------------------------------------------------------ who asks

    def check_host(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            raise Refused(HTTPStatus.FORBIDDEN, f"this server is {self.server.hosts[0]}")

    def check_origin(self) -> None:
        """Raise Refused if the browser says that another page sent this. Programs say nothing."""
        own_origin = f"http://{self.headers['Host']}"
        origins = self.headers.get_all("Origin", [own_origin])
        sites = self.headers.get_all("Sec-Fetch-Site", ["same-origin"])
        if origins != [own_origin] or sites != ["same-origin"]:
            raise Refused(HTTPStatus.FORBIDDEN, "only the page itself may ask this")

    def check_token(self, tokens: list[str]) -> None:
        own_token = self.server.token.encode()
        if len(tokens) != 1 or not secrets.compare_digest(tokens[0].encode(), own_token):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "wrong token: open the address that explain.py printed when it was last started",
            )

    # ------------------------------------------------------------ what is asked

    def read_question(self) -> tuple[str, int]:
        """The prompt and the number of tokens in the body of the request."""
        body = self.read_body()
        try:
            question = json.loads(body)
        except (ValueError, RecursionError):  # not UTF-8, not JSON, or too deep
            raise Refused(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
        if not isinstance(question, dict) or question.keys() != {"prompt", "n_tokens"}:
            message = 'expected {"prompt": text, "n_tokens": number}'
            raise Refused(HTTPStatus.BAD_REQUEST, message)
        prompt, n_tokens = question["prompt"], question["n_tokens"]
        if not isinstance(prompt, str) or re.search("[\ud800-\udfff]", prompt):
            raise Refused(HTTPStatus.BAD_REQUEST, "prompt: expected text")
        most = self.server.max_n_tokens
        if type(n_tokens) is not int or not 0 <= n_tokens <= most:
            message = f"n_tokens: expected a whole number from 0 to {most}"
            raise Refused(HTTPStatus.BAD_REQUEST, message)
        return prompt, n_tokens

    def read_body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if not lengths or "Transfer-Encoding" in self.headers:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "Content-Length is required")
        if len(lengths) != 1 or not re.fullmatch("[0-9]+", lengths[0]):
            raise Refused(HTTPStatus.BAD_REQUEST, "Content-Length: expected one number")
        if len(lengths[0]) > 9 or int(lengths[0]) > MAX_BODY:
            message = f"the text is too long: at most {MAX_BODY} bytes in all"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        body = self.rfile.read(int(lengths[0]))
        if len(body) < int(lengths[0]):
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the body ended early")
        return body

    def compute(self, prompt: str, n_tokens: int) -> str:
        """The data as JSON."""
        try:
            with self.server.lock:
                data = self.server.compute(prompt, n_tokens)
            return json.dumps(data, allow_nan=False)
        except ValueError as error:
            message = " ".join(str(error).split())
            raise Refused(HTTPStatus.BAD_REQUEST, message) from None
        except Exception as error:
            self.server.report(error)
            message = "the computation failed: see the terminal"
            raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, message) from None

    # ------------------------------------------------------------ the answer

    def answer(self, status: HTTPStatus, content_type: str, text: str) -> None:
        body = text.encode()
        self.request_version = "HTTP/1.0"  # of what it could not read, 0.9: without headers
        self.send_response_only(status)  # not `send_response`, which names Python's version
        headers = {
            "Content-Type": f"{content_type}; charset=utf-8",
            "Content-Length": len(body),
            "Connection": "close",
            **SECURITY_HEADERS,
        }
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = "POST" if self.path == "/compute" else "GET"
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, refused: Refused) -> None:
        text = json.dumps({"error": refused.message})
        self.answer(refused.status, "application/json", text)
        self.discard_rest()

    def discard_rest(self) -> None:
        """Read what the client still sends: closing before that would also take the answer away."""
        deadline = time.monotonic() + SECONDS_TO_READ
        with suppress(OSError):  # it closes first, or sends nothing
            self.connection.shutdown(SHUT_WR)
            self.connection.settimeout(0.5)
            while self.connection.recv(1 << 16) and time.monotonic() < deadline:
                pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        if code == HTTPStatus.NOT_IMPLEMENTED:  # what the base class says of an unknown method
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "only GET and POST are answered"
        self.refuse(Refused(HTTPStatus(code), message or HTTPStatus(code).phrase))

    def log_message(self, *arguments) -> None:
        """Requests are not logged."""
