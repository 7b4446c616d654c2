"""explaining/server.py over real connections: what it answers, to whom, and what it refuses."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from encoder import Encoder, byte_level_vocab
from explaining import server as server_module
from explaining.page_data import page_data
from explaining.server import MAX_BODY, MAX_CONNECTIONS, Handler, PageServer, page_server
from tests.fixtures.http_server import running
from tests.fixtures.random_models import random_params

ROOT = Path(__file__).resolve().parents[2]
HTML = "<!doctype html><title>Zoë</title>"
QUESTION = {"prompt": "Zoë said \u202e<script>", "n_tokens": 3}
MAX_N_TOKENS = 20
FOREIGN_ORIGINS = [
    "http://example.com",
    "null",
    "http://localhost:{port}",  # this server too, but not the origin of a page at 127.0.0.1
    "https://127.0.0.1:{port}",
    "http://127.0.0.1:1",
    "http://127.0.0.1:{port}.example.com",
]


@pytest.fixture
def server():
    """A server of a page without a model: `questions` has what it was asked to compute."""
    questions = []

    def compute(prompt, n_tokens):
        questions.append({"prompt": prompt, "n_tokens": n_tokens})
        return {"asked": prompt}

    with running(PageServer(lambda token: HTML, compute, MAX_N_TOKENS)) as server:
        server.questions = questions
        yield server


def port_of(server):
    return server.server_address[1]


def ask(server, method, path, headers=(), body=b"", **changed):
    """One request -> (status, headers, body). `headers` replace the usual ones; None drops one."""
    usual = {"Host": f"127.0.0.1:{port_of(server)}"}
    if method == "POST":
        usual |= {"X-Token": server.token, "Content-Length": str(len(body))}
    sent = {name: value for name, value in {**usual, **dict(headers)}.items() if value is not None}
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=20)
    with closing(connection):
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def get(server, path=None, headers=()):
    return ask(server, "GET", f"/?token={server.token}" if path is None else path, headers)


def post(server, question=QUESTION, headers=()):
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    return ask(server, "POST", "/compute", headers, body)


def refusal(answer, status):
    """The message of an answer, which must be a refusal with this status."""
    found, headers, body = answer
    assert (found, headers.get_content_type()) == (status, "application/json")
    message = json.loads(body)["error"]
    assert message and "\n" not in message and "Traceback" not in message
    return message


# ---------------------------------------------------------------- what it answers


def test_the_page_is_at_the_address_with_the_token(server):
    assert server.url == f"http://127.0.0.1:{port_of(server)}/?token={server.token}"
    status, headers, body = get(server)
    assert (status, body.decode()) == (200, HTML)
    assert headers["Content-Type"] == "text/html; charset=utf-8"


def test_a_question_is_computed(server):
    status, headers, body = post(server)
    assert (status, json.loads(body)) == (200, {"asked": QUESTION["prompt"]})
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert server.questions == [QUESTION]


def test_it_also_answers_to_localhost(server):
    host = f"localhost:{port_of(server)}"
    assert get(server, headers={"Host": host})[0] == 200
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert post(server, headers=headers)[0] == 200


def test_the_page_itself_may_ask(server):
    origin = f"http://127.0.0.1:{port_of(server)}"
    assert post(server, headers={"Origin": origin, "Sec-Fetch-Site": "same-origin"})[0] == 200


def test_every_server_has_a_token_of_its_own(server):
    with PageServer(lambda token: HTML, dict, MAX_N_TOKENS) as other:
        assert other.token != server.token and len(server.token) >= 32


@pytest.mark.parametrize("path", ["/", "/missing", "/compute"])
def test_the_headers_protect_the_page_and_name_no_version(server, path):
    answers = [get(server, path), get(server), post(server), ask(server, "PUT", path)]
    for _, headers, _ in answers:
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Server" not in headers and "Access-Control-Allow-Origin" not in headers


def test_it_listens_on_loopback_only(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


# ---------------------------------------------------------------- who may ask


@pytest.mark.parametrize(
    "host",
    [None, "", "127.0.0.1", "example.com:{port}", "127.0.0.1:1", "127.0.0.1:{port}.example.com"],
)
def test_a_foreign_host_is_refused(server, host):
    headers = {"Host": host and host.format(port=port_of(server))}
    refusal(get(server, headers=headers), 403)
    refusal(post(server, headers=headers), 403)
    assert server.questions == []


def test_two_hosts_are_refused(server):
    own = f"127.0.0.1:{port_of(server)}"
    head = f"GET /?token={server.token} HTTP/1.1\r\nHost: {own}\r\nHost: example.com\r\n\r\n"
    assert status_of(raw(server, head.encode())) == 403


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_foreign_origin_is_refused(server, origin):
    refusal(post(server, headers={"Origin": origin.format(port=port_of(server))}), 403)
    assert server.questions == []


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_a_request_from_another_site_is_refused(server, site):
    refusal(post(server, headers={"Sec-Fetch-Site": site}), 403)
    assert server.questions == []


@pytest.mark.parametrize("token", [None, "", "wrong", "{token}x", "\xe9", "{shorter}"])
def test_a_wrong_token_is_refused(server, token):
    if token is not None:
        token = token.format(token=server.token, shorter=server.token[:-1])
    refusal(post(server, headers={"X-Token": token}), 403)
    refusal(get(server, "/" if token is None else f"/?token={token.replace('é', '%C3%A9')}"), 403)
    assert server.questions == []


def test_the_token_in_the_address_does_not_do_for_a_question(server):
    path = f"/compute?token={server.token}"
    refusal(ask(server, "POST", path, {"X-Token": None}, json.dumps(QUESTION).encode()), 404)


# ---------------------------------------------------------------- what may be asked


@pytest.mark.parametrize("path", ["/missing", "/../etc/passwd", "//", "/index.html", "*", "x"])
def test_other_addresses_are_not_found(server, path):
    refusal(get(server, f"{path}?token={server.token}" if path != "//" else "/a/"), 404)
    refusal(ask(server, "POST", path if path != "//" else "/a/"), 404)


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"])
def test_other_methods_are_not_allowed(server, method):
    for path, allowed in [("/", "GET"), ("/compute", "POST")]:
        status, headers, _ = ask(server, method, path)
        assert (status, headers["Allow"]) == (405, allowed)


def test_an_answer_to_head_has_no_body(server):
    answer = raw(server, b"HEAD / HTTP/1.1\r\n\r\n")
    assert status_of(answer) == 405 and answer.endswith(b"\r\n\r\n")


def test_each_address_has_its_method(server):
    refusal(get(server, f"/compute?token={server.token}"), 405)
    refusal(ask(server, "POST", f"/?token={server.token}"), 405)


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"{",
        b"prompt=x",
        b"\xff\xfe",
        b'{"prompt": "caf\xe9"}',
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b'{"prompt": "a", "n_tokens": ' + b"9" * 5000 + b"}",
        [],
        "text",
        None,
        {},
        {"n_tokens": 3},
        {"prompt": "a"},
        {"prompt": ["a"], "n_tokens": 3},
        {"prompt": None, "n_tokens": 3},
        {"prompt": "half a pair: \ud83d", "n_tokens": 3},
        {"prompt": "a", "n_tokens": -1},
        {"prompt": "a", "n_tokens": MAX_N_TOKENS + 1},
        {"prompt": "a", "n_tokens": 1.5},
        {"prompt": "a", "n_tokens": True},
        {"prompt": "a", "n_tokens": "3"},
        {"prompt": "a", "n_tokens": None},
        {"prompt": "a", "n_tokens": float("nan")},
        {"prompt": "a", "n_tokens": 3, "model": "/etc/passwd"},
    ],
    ids=lambda question: str(question)[:30],
)
def test_a_question_that_is_none_is_reported(server, question):
    refusal(post(server, question), 400)
    assert server.questions == []
    assert post(server)[0] == 200  # and the server goes on


def test_the_largest_body_is_taken_and_a_larger_one_is_not(server):
    n = MAX_BODY - len(json.dumps({"prompt": "", "n_tokens": 3}))
    assert post(server, {"prompt": "a" * n, "n_tokens": 3})[0] == 200
    assert str(MAX_BODY) in refusal(post(server, {"prompt": "a" * (n + 1), "n_tokens": 3}), 413)
    refusal(post(server, b"a" * (200 * MAX_BODY)), 413)  # also to a client that sends it all
    assert len(server.questions) == 1


def test_a_length_that_is_not_sent_is_not_waited_for(server):
    head = f"POST /compute HTTP/1.1\r\nHost: 127.0.0.1:{port_of(server)}\r\nX-Token: {server.token}"
    for length, status in [("9" * 5000, 413), ("99999999", 413), ("-1", 400), ("+1", 400)]:
        request = f"{head}\r\nContent-Length: {length}\r\n\r\n"
        assert status_of(raw(server, request.encode(), end=False)) == status


def test_a_length_is_required(server):
    refusal(post(server, headers={"Content-Length": None}), 411)
    chunked = {"Transfer-Encoding": "chunked"}
    refusal(post(server, headers={"Content-Length": None, **chunked}), 411)
    refusal(post(server, headers=chunked), 411)
    refusal(post(server, b"{}", headers={"Content-Length": "1e1"}), 400)
    assert server.questions == []


def test_a_body_that_ends_early_is_not_computed(server):
    head = f"POST /compute HTTP/1.1\r\nHost: 127.0.0.1:{port_of(server)}\r\nX-Token: {server.token}"
    answer = raw(server, f'{head}\r\nContent-Length: 99\r\n\r\n{{"prompt": '.encode())
    assert status_of(answer) == 408 and server.questions == []


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\na: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused(server, request_bytes, status):
    answer = raw(server, request_bytes)
    assert status_of(answer) == status and b"Traceback" not in answer and b"Server:" not in answer
    assert get(server)[0] == 200


def raw(server, request, end=True):
    """What is answered to these bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=20) as connection:
        connection.sendall(request)
        if end:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def status_of(answer):
    return int(re.match(rb"HTTP/1\.\d (\d{3}) ", answer)[1])


# ---------------------------------------------------------------- errors


def test_what_the_model_cannot_read_is_the_users_mistake(server):
    def compute(prompt, n_tokens):
        raise ValueError("too many\n tokens")

    server.compute = compute
    assert refusal(post(server), 400) == "too many tokens"


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, OSError])
def test_an_error_is_one_line_in_the_terminal_and_none_of_it_in_the_answer(server, error, capfd):
    def compute(prompt, n_tokens):
        raise error("secret\n path")

    server.compute = compute
    assert "secret" not in refusal(post(server), 500)
    out, err = capfd.readouterr()
    assert not out
    assert re.fullmatch(rf"\S+: {error.__name__}: secret path\n", err)
    del server.compute
    server.compute = lambda prompt, n_tokens: {}
    assert post(server)[0] == 200


def test_a_client_that_hangs_up_leaves_nothing_behind(server, capfd):
    hung_up = threading.Event()

    def compute(prompt, n_tokens):
        hung_up.wait(20)
        return {"long": "x" * 10_000_000}

    server.compute = compute
    body = json.dumps(QUESTION)
    head = f"POST /compute HTTP/1.1\r\nHost: 127.0.0.1:{port_of(server)}\r\nX-Token: {server.token}"
    with socket.create_connection(("127.0.0.1", port_of(server))) as connection:
        connection.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    hung_up.set()
    server.compute = lambda prompt, n_tokens: {}
    assert post(server)[0] == 200
    wait_until(lambda: not server.deadlines)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- several clients


def test_one_question_at_a_time_is_computed(server):
    inside, most = [], []

    def compute(prompt, n_tokens):
        inside.append(prompt)
        most.append(len(inside))
        time.sleep(0.02)
        inside.remove(prompt)
        return {"asked": prompt}

    server.compute = compute
    answers = together(lambda i: post(server, {"prompt": str(i), "n_tokens": 3}), 8)
    assert [json.loads(body)["asked"] for _, _, body in answers] == [str(i) for i in range(8)]
    assert max(most) == 1


def test_the_page_is_had_while_a_question_is_computed(server):
    entered, go_on = threading.Event(), threading.Event()

    def compute(prompt, n_tokens):
        entered.set()
        assert go_on.wait(20)
        return {}

    server.compute = compute
    asking = threading.Thread(target=post, args=[server])
    asking.start()
    assert entered.wait(20)
    assert get(server)[0] == 200
    go_on.set()
    asking.join()


def test_a_slow_client_does_not_keep_others_waiting(server):
    with socket.create_connection(("127.0.0.1", port_of(server))) as slow:
        slow.sendall(b"POST /compute HTTP/1.1\r\nHost: ")
        assert get(server)[0] == 200 and post(server)[0] == 200


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\nA: ", "a question"])
def test_a_client_that_drips_is_hung_up_on(server, beginning, monkeypatch):
    monkeypatch.setattr(server_module, "SECONDS_TO_READ", 0.3)
    if beginning == "a question":
        host = f"127.0.0.1:{port_of(server)}"
        beginning = (
            f"POST /compute HTTP/1.1\r\nHost: {host}\r\nX-Token: {server.token}\r\n"
            f"Content-Length: {MAX_BODY}\r\n\r\n"
        ).encode()
    with socket.create_connection(("127.0.0.1", port_of(server))) as drip:
        drip.settimeout(0.05)
        drip.sendall(beginning)
        wait_until(lambda: hung_up(drip, b" "))
    assert server.questions == []


def test_a_client_that_says_nothing_is_forgotten_without_a_word(server, monkeypatch, capfd):
    monkeypatch.setattr(Handler, "timeout", 0.05)
    assert raw(server, b"", end=False) == b""
    assert capfd.readouterr() == ("", "")


def test_a_slow_computation_is_not_cut_off(server, monkeypatch):
    monkeypatch.setattr(server_module, "SECONDS_TO_READ", 0.1)

    def compute(prompt, n_tokens):
        time.sleep(0.5)
        return {}

    server.compute = compute
    assert post(server)[0] == 200


def test_more_connections_than_allowed_are_closed_until_others_are_done(server, monkeypatch):
    monkeypatch.setattr(server_module, "SECONDS_TO_READ", 60)
    address = "127.0.0.1", port_of(server)
    waiting = [socket.create_connection(address) for _ in range(MAX_CONNECTIONS)]
    wait_until(lambda: len(server.deadlines) == MAX_CONNECTIONS)
    with socket.create_connection(address, timeout=5) as one_more:
        assert one_more.recv(1) == b""
    for connection in waiting:
        connection.close()
    wait_until(lambda: not server.deadlines)
    assert set(together(lambda i: get(server)[0], MAX_CONNECTIONS // 2)) == {200}


def together(function, n):
    """[function(0), ..., function(n - 1)], each called in a thread of its own."""
    results = [None] * n

    def call(i):
        results[i] = function(i)

    threads = [threading.Thread(target=call, args=[i]) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def hung_up(connection, byte):
    """Send a byte; whether the server has closed the connection."""
    try:
        connection.sendall(byte)
        while connection.recv(1 << 16):
            pass
        return True
    except TimeoutError:
        return False
    except OSError:
        return True


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---------------------------------------------------------------- with a model

HPARAMS = {"n_vocab": 257, "n_ctx": 32, "n_embd": 16, "n_head": 2, "n_layer": 2}


@pytest.fixture(scope="module")
def model():
    return Encoder(byte_level_vocab(), []), HPARAMS, random_params(HPARAMS, scale=0.5)


def test_several_clients_get_the_pages_of_their_own_prompts(model):
    prompts = [f"text {i} <script>" for i in range(6)]
    expected = [page_data(prompt, model, n_tokens_to_generate=2) for prompt in prompts]
    with running(page_server(model, "def f(", 2)) as server:
        html = get(server)[2].decode()
        answers = together(lambda i: post(server, {"prompt": prompts[i], "n_tokens": 2}), 6)
    assert server.token in html
    assert [json.loads(body) for _, _, body in answers] == json.loads(json.dumps(expected))


def test_more_tokens_than_the_window_are_refused(model):
    with running(page_server(model, "a", 2)) as server:
        question = {"prompt": "a", "n_tokens": HPARAMS["n_ctx"] + 1}
        assert str(HPARAMS["n_ctx"]) in refusal(post(server, question), 400)


PROGRAM = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import command_line
from tests.explaining.test_server import HPARAMS, random_params, Encoder, byte_level_vocab
from explaining import server

def main(prompt: str = "a"):
    plain = server.page_data
    def slow_page_data(prompt, model, n_tokens):
        data = plain(prompt, model, n_tokens)
        if prompt == "slow":
            print("computing", flush=True)
            time.sleep(60)
        return data
    server.page_data = slow_page_data
    server.serve((Encoder(byte_level_vocab(), []), HPARAMS, random_params(HPARAMS)), prompt, 2)

command_line.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send on Windows")
@pytest.mark.parametrize("prompt", ["a", "slow"])
def test_ctrl_c_ends_the_program_at_once(prompt):
    """Even while a question is computed."""
    source = PROGRAM.format(root=str(ROOT))
    program = subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    with program:
        try:
            url = program.stdout.readline()
            port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)\n", url).groups()
            body = json.dumps({"prompt": prompt, "n_tokens": 1})
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
            with closing(connection):
                connection.request("POST", "/compute", body, {"X-Token": token})
                if prompt == "slow":
                    assert program.stdout.readline() == "computing\n"
                else:
                    assert connection.getresponse().status == 200
                program.send_signal(signal.SIGINT)
                out, err = program.communicate(timeout=20)
        finally:
            program.kill()
    assert (program.returncode, out) == (130, "")
    assert "Ctrl-C" in err and "Traceback" not in err


def test_connections_for_which_there_was_no_thread_take_no_room(server, monkeypatch, capsys):
    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        for _ in range(MAX_CONNECTIONS):
            with pytest.raises(OSError):
                get(server)
    assert get(server)[0] == 200
    assert "can't start new thread" in capsys.readouterr().err
