"""python gpt2.py as a user runs it: a process, its arguments, its streams and its exit status."""

import inspect
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpt2
import utils
from encoder import Encoder, byte_level_vocab, get_encoder
from tests.fixtures.random_models import random_params
from utils import save_model_folder

GPT2 = Path(gpt2.__file__)
HPARAMS = {"n_vocab": 257, "n_ctx": 32, "n_embd": 16, "n_head": 2, "n_layer": 2}
OFFLINE = "http://127.0.0.1:1"  # nothing listens there


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    encoder = Encoder(byte_level_vocab(), [])
    save_model_folder(str(folder / "tiny"), encoder, HPARAMS, random_params(HPARAMS, scale=0.5))
    return folder


def command(models_dir, *arguments):
    return [sys.executable, str(GPT2), *arguments, f"--models_dir={models_dir}"]


def run_gpt2(models_dir, *arguments, stdin="", code=0, **options):
    arguments = [*arguments, "--model_size=tiny"]
    done = subprocess.run(
        command(models_dir, *arguments),
        input=stdin.encode(),
        capture_output=True,
        timeout=120,
        env={**os.environ, "GPT2_BASE_URL": OFFLINE},
        **options,
    )
    assert done.returncode == code, done.stderr
    return done.stdout.decode("utf-8"), done.stderr.decode("utf-8")


def expected_text(models_dir, prompt, n=40, **options):
    encoder, hparams, params = utils.load_model("tiny", str(models_dir))
    ids = encoder.encode(prompt) or [encoder.eot]
    options.setdefault("stop_id", encoder.eot)
    return encoder.decode(gpt2.generate(ids, params, hparams["n_head"], n, **options))


# ---------------------------------------------------------------- the prompt


@pytest.mark.parametrize("prompt", ["Yes, sir", "2024", "-5 degrees", "", "é 🙂"])
def test_the_whole_program_continues_the_prompt_as_typed(prompt, models_dir):
    out, err = run_gpt2(models_dir, prompt)
    assert (out, err) == (expected_text(models_dir, prompt) + "\n", "")


def test_a_dash_reads_standard_input_to_its_end_unchanged(models_dir):
    text = " def f():\r\n\treturn 1\n"
    out, _ = run_gpt2(models_dir, "-", stdin=text)
    assert out == expected_text(models_dir, text) + "\n"


def test_bytes_that_are_no_utf8_are_replaced(models_dir):
    done = subprocess.run(
        command(models_dir, "-", "--model_size=tiny"), input=b"caf\xe9", capture_output=True
    )
    assert done.stdout.decode("utf-8") == expected_text(models_dir, "caf\ufffd") + "\n"


# ---------------------------------------------------------------- the options


def test_n_tokens_to_generate(models_dir):
    out, _ = run_gpt2(models_dir, "abc", "--n_tokens_to_generate", "7")
    assert out == expected_text(models_dir, "abc", 7) + "\n"
    assert run_gpt2(models_dir, "abc", "--n_tokens_to_generate=0")[0] == "\n"


def test_samples_are_those_of_consecutive_seeds(models_dir):
    options = ["--temperature=1.5", "--top_k=50", "--top_p=0.9"]
    three, _ = run_gpt2(models_dir, "abc", *options, "--seed=5", "--n_samples=3")

    def text(seed):
        rng = np.random.default_rng(seed)
        return expected_text(models_dir, "abc", temperature=1.5, top_k=50, top_p=0.9, rng=rng)

    assert three == text(5) + "\n" + text(6) + "\n" + text(7) + "\n"
    assert text(5) != text(6)


@pytest.mark.parametrize("temperature", ["1e-46", "1e-300", "5e-324"])
def test_a_temperature_that_is_nearly_0_takes_the_best(temperature, models_dir):
    out, err = run_gpt2(models_dir, "abc", f"--temperature={temperature}")
    assert (out, err) == (expected_text(models_dir, "abc") + "\n", "")


@pytest.mark.parametrize("temperature", ["1e300", "inf"])
def test_a_temperature_beyond_float32_takes_any(temperature, models_dir):
    out, err = run_gpt2(models_dir, "abc", f"--temperature={temperature}", "--seed=1")
    rng = np.random.default_rng(1)
    expected = expected_text(models_dir, "abc", temperature=float(temperature), rng=rng)
    assert (out, err) == (expected + "\n", "")


def test_lookup_changes_no_text(models_dir):
    expected = expected_text(models_dir, "abcabcabcabc", lookup=False) + "\n"
    assert run_gpt2(models_dir, "abcabcabcabc")[0] == expected
    assert run_gpt2(models_dir, "abcabcabcabc", "--lookup=False")[0] == expected


def test_lookup_is_passed_on(models_dir, monkeypatch, capsys):
    passed = []
    stream = gpt2.generate_stream
    monkeypatch.setattr(
        gpt2,
        "generate_stream",
        lambda *a, **options: passed.append(options) or stream(*a, **options),
    )
    for lookup in (True, False):
        gpt2.main("abc", 3, "tiny", str(models_dir), lookup=lookup)
    assert [options["lookup"] for options in passed] == [True, False]


@pytest.mark.parametrize("n", [1, 1000])
def test_threads_are_at_most_those_asked_for_and_those_there_are(n, models_dir):
    code = f"""
import os, threadpoolctl, gpt2
from fast import threads
gpt2.main("abc", 2, "tiny", {str(models_dir)!r}, threads={n})
there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
blas = [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
assert {{*blas, threads.cores()}} == {{min({n}, there)}}, (blas, threads.cores())
"""
    folder = str(Path(gpt2.__file__).parent)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)


def test_stop_at_eot(models_dir, tmp_path):
    params = random_params(HPARAMS)
    params["ln_f"]["g"][:], params["ln_f"]["b"][:] = 0, params["wte"][256]  # always that token
    params["wte"][256] *= 10
    save_model_folder(str(tmp_path / "tiny"), Encoder(byte_level_vocab(), []), HPARAMS, params)
    assert run_gpt2(tmp_path, "abc")[0] == "\n"
    out, _ = run_gpt2(tmp_path, "abc", "--stop_at_eot", "False", "--n_tokens_to_generate=2")
    assert out == "<|endoftext|><|endoftext|>\n"


def test_a_prompt_longer_than_the_window_is_cut_with_a_notice(models_dir):
    prompt = "0123456789" * 5
    out, err = run_gpt2(models_dir, prompt)
    assert out == expected_text(models_dir, prompt[-32:]) + "\n"
    assert "50" in err and "32" in err and err.count("\n") == 1


def test_a_notice_names_the_program_that_runs(models_dir, tmp_path):
    arguments = ["0123456789" * 5, "--model_size=tiny", f"--out={tmp_path / 'page.html'}"]
    done = subprocess.run(
        [sys.executable, GPT2.parent / "explain.py", *arguments, f"--models_dir={models_dir}"],
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0
    assert done.stderr.startswith("explain.py: ") and "50" in done.stderr


def test_an_empty_prompt_needs_the_end_mark(tmp_path):
    hparams = HPARAMS | {"n_vocab": 256}
    vocabulary = {token: i for token, i in byte_level_vocab().items() if i < 256}
    save_model_folder(
        str(tmp_path / "tiny"), Encoder(vocabulary, []), hparams, random_params(hparams)
    )
    _, err = run_gpt2(tmp_path, "", code=1)
    assert "<|endoftext|>" in err and "Traceback" not in err and err.count("\n") == 1
    assert run_gpt2(tmp_path, "a")[0]


def test_interactive_answers_each_line_by_itself(models_dir):
    out, err = run_gpt2(models_dir, "--interactive", stdin="one\n\ntwo, three\r\nlast")
    texts = [expected_text(models_dir, prompt) for prompt in ("one", "", "two, three", "last")]
    assert out == "".join(text + "\n" for text in texts)
    assert err == ""


def test_help_names_every_option(models_dir):
    done = subprocess.run([sys.executable, GPT2, "--help"], capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and done.stderr == ""
    for option in inspect.signature(gpt2.main).parameters:
        assert option == "prompt" or f"--{option} " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a", "b"],
        ["a", "--interactive"],
        ["a", "--temprature=1"],
        ["a", "--top_k"],
        ["a", "--top_k=-1"],
        ["a", "--top_k=1.5"],
        ["a", "--top_p=1.1"],
        ["a", "--temperature=-0.1"],
        ["a", "--temperature=hot"],
        ["a", "--seed=-1"],
        ["a", "--seed=x"],
        ["a", "--n_samples=0"],
        ["a", "--n_samples=99999999999"],
        ["a", "--n_samples=" + "9" * 18],
        ["a", "--n_samples=" + "9" * 30],
        ["a", "--temperature=1" + "0" * 400],
        ["a", "--n_tokens_to_generate=" + "9" * 30],
        ["a", "--threads=0"],
        ["a", "--threads=many"],
        ["a", "--lookup=maybe"],
        ["a", "--n_tokens_to_generate=-1"],
        ["a", "--n_tokens_to_generate=True"],
        ["a", "--stop_at_eot=maybe"],
    ],
)
def test_a_users_error_is_one_line_and_comes_before_any_work(arguments, models_dir):
    out, err = run_gpt2(models_dir, *arguments, code=1)
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize("model_size", ["nowhere", "../tiny", "", "124M"])
def test_a_model_that_cannot_be_had_is_one_line(model_size, models_dir):
    done = subprocess.run(
        command(models_dir, "a", f"--model_size={model_size}"),
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "GPT2_BASE_URL": OFFLINE},
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_without_network_and_model_size_the_bundled_model_answers(tmp_path):
    done = subprocess.run(
        command(tmp_path / "models", "def "),
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "GPT2_BASE_URL": OFFLINE},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 10
    assert "124M" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "models" / "python").exists()


# ---------------------------------------------------------------- the streams


def test_whole_characters_only(models_dir, monkeypatch):
    encoder, _, _ = utils.load_model("tiny", str(models_dir))
    ids = encoder.encode("é🙂a🏳️‍🌈") + encoder.encode("🙂")[:3]  # the last one is cut short
    monkeypatch.setattr(gpt2, "generate_stream", lambda *args, **options: iter(ids))
    pieces = []
    monkeypatch.setattr(gpt2, "write_text", lambda found: pieces.extend(found) or "")
    gpt2.main("x", len(ids), "tiny", str(models_dir))
    assert pieces[:3] == ["é", "🙂", "a"]
    assert "\ufffd" not in "".join(pieces[:-1]) and pieces[-1].startswith("\ufffd")
    assert "".join(pieces) == encoder.decode(ids)


def test_main_streams_and_returns_the_text(models_dir, capsys):
    text = gpt2.main("abc", 12, model_size="tiny", models_dir=str(models_dir))
    assert capsys.readouterr().out == text + "\n"
    assert text == expected_text(models_dir, "abc", 12)


def popen(models_dir, *arguments):
    arguments = [*arguments, "--model_size=tiny", "--stop_at_eot=False"]
    return subprocess.Popen(
        command(models_dir, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_damaged_weights_are_named_in_one_line(tmp_path):
    encoder, hparams, params = utils.load_encoder_hparams_and_params(
        "python", str(GPT2.parent / "models")
    )
    params = utils.map_params(lambda name, p: np.array(p), params)
    utils.save_model_folder(tmp_path / "tiny", encoder, hparams, params)
    weights = tmp_path / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + np.float32(np.nan).tobytes())
    out, err = run_gpt2(tmp_path, "abc", code=1)
    assert out == "" and err.count("\n") == 1 and str(weights) in err


needs_signals = pytest.mark.skipif(os.name != "posix", reason="sends signals")


@needs_signals
def test_text_comes_while_it_is_made_and_ctrl_c_ends_it_quietly(models_dir):
    with popen(models_dir, "abc", "--n_tokens_to_generate=1000000") as process:
        start = process.stdout.read1(64)
        assert start and process.poll() is None
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == b""
    text = (start + rest).decode("utf-8")
    assert text.endswith("\n")
    assert expected_text(models_dir, "abc", 200, stop_id=None).startswith(text[:100].rstrip("\n"))


@needs_signals
def test_a_reader_that_goes_away_ends_it_quietly(models_dir):
    with popen(models_dir, "abc", "--n_tokens_to_generate=1000000") as process:
        process.stdout.read1(8)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) != 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_line(models_dir):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            command(models_dir, "abc", "--model_size=tiny"), stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1 and b"Traceback" not in done.stderr


def on_a_terminal(models_dir, stdout):
    """What a terminal on standard error (and on standard output if `stdout` is None) shows."""
    fcntl = pytest.importorskip("fcntl", reason="needs a POSIX terminal")
    import pty
    import termios

    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # rows and columns
    arguments = command(models_dir, "abc", "--model_size=tiny", "--n_tokens_to_generate=30")
    process = subprocess.Popen(arguments, stdout=stdout or end, stderr=end)
    os.close(end)
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # how Linux tells the end of a pseudo-terminal
        pass
    assert process.wait(timeout=60) == 0
    os.close(terminal)
    return shown.decode("utf-8")


def test_a_bar_shows_only_where_it_cannot_cut_through_the_text(models_dir, tmp_path):
    expected = expected_text(models_dir, "abc", 30)
    with open(tmp_path / "out.txt", "wb") as file:
        assert "30/30" in on_a_terminal(models_dir, file)
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == expected + "\n"
    assert "30/30" not in on_a_terminal(models_dir, None)


def test_it_runs_where_python_lacks_what_only_some_systems_have(models_dir):
    """As on Windows: neither forks nor CPU affinity, and streams in the console's code page."""
    code = """
import os, runpy, signal, sys

for name in ("fork", "register_at_fork", "sched_getaffinity", "sysconf_names"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGPIPE", "SIGALRM", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
sys.modules |= dict.fromkeys(["fcntl", "resource", "termios"])
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    program, *arguments = command(models_dir, "é 漢 🙂", "--model_size=tiny", "--n_samples=2")[1:]
    done = subprocess.run(
        [sys.executable, "-c", code, program, *arguments],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        cwd=GPT2.parent,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("utf-8") == 2 * (expected_text(models_dir, "é 漢 🙂") + "\n")


def test_a_run_imports_no_more_than_it_needs(models_dir):
    code = f"""
import sys, gpt2
gpt2.main("abc", 3, model_size="tiny", models_dir={str(models_dir)!r})
print(*sorted(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=GPT2.parent
    )
    loaded = set(done.stdout.split("\n")[-2].split())
    assert "numpy" in loaded
    assert not loaded & {"tensorflow", "torch", "transformers", "requests", "tqdm", "train"}


@pytest.mark.skipif(os.name != "posix", reason="such locales")
def test_a_prompt_arrives_as_typed_in_a_locale_that_is_not_utf8(models_dir):
    arguments = command(models_dir, "é 漢 🙂", "--model_size=tiny")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(arguments, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("utf-8") == expected_text(models_dir, "é 漢 🙂") + "\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
@pytest.mark.parametrize("option", ["--out", "--dump", "--compare"])
def test_a_pipe_in_place_of_a_file_is_one_line_and_stays(option, models_dir, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = ["abc", "--model_size=tiny", f"--models_dir={models_dir}", f"{option}={pipe}"]
    done = subprocess.run(
        [sys.executable, GPT2.parent / "explain.py", *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 1 and str(pipe) in done.stderr and done.stderr.count("\n") == 1
    assert pipe.is_fifo()


# ---------------------------------------------------------------- from the network to text


def test_download_and_generate_in_one_command(tmp_path):
    pytest.importorskip("tensorflow", reason="writes a TensorFlow checkpoint")
    from tests.fixtures.checkpoints import VOCABULARY, write_openai_folder
    from tests.fixtures.http_server import serve

    hparams = {"n_vocab": 50257, "n_ctx": 64, "n_embd": 24, "n_head": 3, "n_layer": 2}
    params, prompt = random_params(hparams), "Not all heroes wear capes."
    write_openai_folder(tmp_path / "site" / "lab", hparams, params)
    models_dir = tmp_path / "models"
    arguments = [prompt, "--model_size=lab", "--n_tokens_to_generate=20", "--stop_at_eot=False"]

    def run_with(base_url):
        done = subprocess.run(
            command(models_dir, *arguments),
            capture_output=True,
            env={**os.environ, "GPT2_BASE_URL": base_url},
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode("utf-8")

    encoder = get_encoder(VOCABULARY.name, str(VOCABULARY.parent))
    ids = gpt2.generate(encoder.encode(prompt), params, 3, 20)
    with serve(tmp_path / "site") as server:
        server.faults["model.ckpt.data-00000-of-00001"] = [("cut", 100_000)]
        assert run_with(server.url) == encoder.decode(ids) + "\n"
        fetched = len(server.requests)
        assert run_with(server.url) == encoder.decode(ids) + "\n"
        assert len(server.requests) == fetched == 8  # seven files, one of them in two parts
    assert run_with(OFFLINE) == encoder.decode(ids) + "\n"
