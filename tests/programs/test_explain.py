"""python explain.py as a user runs it, and its dump against that of transformers."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import gpt2
import utils
from encoder import Encoder, byte_level_vocab
from explaining.compare import compare_dumps
from explaining.dump import Dump, read_dump, write_dump
from explaining.page_data import page_data
from explaining.watch import watch
from tests.fixtures.random_models import GPT2_124M, TINY, random_params, random_prompt
from utils import save_model_folder

EXPLAIN = Path(gpt2.__file__).with_name("explain.py")
HPARAMS = {"n_vocab": 257, "n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 2}
OFFLINE = "http://127.0.0.1:1"  # nothing listens there
PROMPT = "def é(x):"


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    encoder = Encoder(byte_level_vocab(), [])
    for seed, name in enumerate(["tiny", "other"]):
        params = random_params(HPARAMS, seed=seed, scale=0.5)
        save_model_folder(str(folder / name), encoder, HPARAMS, params)
    return folder


@pytest.fixture
def run(models_dir, tmp_path):
    """Runs explain.py in tmp_path: -> standard output, standard error; checks its exit status."""

    def run_explain(*arguments, model_size="tiny", code=0, stdin=""):
        options = [f"--model_size={model_size}"] if model_size else []
        done = subprocess.run(
            [sys.executable, str(EXPLAIN), *arguments, *options, f"--models_dir={models_dir}"],
            input=stdin.encode(),
            capture_output=True,
            timeout=120,
            cwd=tmp_path,
            env={**os.environ, "GPT2_BASE_URL": OFFLINE},
        )
        assert done.returncode == code, done.stderr
        return done.stdout.decode("utf-8"), done.stderr.decode("utf-8")

    return run_explain


def values_of(models_dir, prompt):
    encoder, hparams, params = utils.load_model("tiny", str(models_dir))
    ids = encoder.encode(prompt) or [encoder.eot]
    return ids, watch(ids, params, hparams["n_head"])


def change(path, target, **arrays):
    """Write a copy of a dump with other arrays; None leaves one out."""
    with np.load(path) as file:
        changed = {**file, **arrays}
    np.savez(target, **{name: array for name, array in changed.items() if array is not None})


# ---------------------------------------------------------------- the page


def data_of(page: str) -> dict:
    """What a page shows, read out of it."""
    [embedded] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(embedded)


def test_the_page_is_of_the_prompt_and_of_what_the_model_adds(run, models_dir, tmp_path):
    out, err = run(PROMPT, "--n_tokens_to_generate=5", "--temperature=1", "--seed=3")
    assert (out, err) == ("explain.html\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["explain.html"]
    model = utils.load_model("tiny", str(models_dir))
    expected = page_data(PROMPT, model, 5, temperature=1.0, seed=3)
    shown = data_of((tmp_path / "explain.html").read_text(encoding="utf-8"))
    assert shown["text"] == expected["text"] and shown["ids"] == expected["ids"]


def test_another_file_and_another_model(run, tmp_path):
    pages = []
    for name in ("tiny", "other"):
        out, _ = run(PROMPT, f"--out={name}.html", model_size=name)
        assert out == f"{name}.html\n"
        pages.append(data_of((tmp_path / f"{name}.html").read_text(encoding="utf-8")))
    assert pages[0]["logits"] != pages[1]["logits"]


@pytest.mark.skipif(os.name != "posix", reason="the browser is a shell script")
def test_the_page_is_opened_in_the_browser(run, tmp_path, monkeypatch):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n', encoding="utf-8")
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    run(PROMPT, "--open", "--out=a page.html")
    opened = (tmp_path / "opened").read_text(encoding="utf-8").strip()
    assert opened == (tmp_path / "a page.html").resolve().as_uri()
    monkeypatch.setenv("BROWSER", "/no/such/browser %s")
    _, err = run(PROMPT, "--open")
    assert len(err.splitlines()) == 1 and "browser" in err


def test_the_page_is_served_until_ctrl_c(models_dir, tmp_path):
    options = ["--serve", "--model_size=tiny", f"--models_dir={models_dir}"]
    with subprocess.Popen(
        [sys.executable, str(EXPLAIN), PROMPT, "--n_tokens_to_generate=3", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        try:
            address = process.stdout.readline().decode().strip()
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert data_of(answer.read().decode("utf-8"))["prompt"] == PROMPT
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130 and b"Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- --dump and --names


def test_the_dump_has_all_values_the_ids_and_a_description(run, models_dir, tmp_path):
    out, err = run(PROMPT, "--dump", "values.npz")
    assert (out, err) == ("", "")
    ids, values = values_of(models_dir, PROMPT)
    with np.load(tmp_path / "values.npz") as file:
        assert [name for name in file.files if name not in ("about", "ids")] == list(values)
        assert file["ids"].tolist() == ids
        for name, value in values.items():
            np.testing.assert_array_equal(file[name], value.array)
            assert file[name].dtype == np.float32
        about = json.loads(str(file["about"]))
    assert about["prompt"] == PROMPT and about["hparams"] == HPARAMS
    for name, value in values.items():
        assert about["values"][name]["shape"] == list(value.shape)
        assert about["values"][name]["description"] == value.description
    assert [path.name for path in tmp_path.iterdir()] == ["values.npz"]


def test_a_dump_that_cannot_be_written_leaves_the_old_one(models_dir, tmp_path, monkeypatch):
    def disk_full(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    path = tmp_path / "values.npz"
    path.write_bytes(b"old")
    monkeypatch.setattr(np, "savez", disk_full)
    ids, values = values_of(models_dir, PROMPT)
    with pytest.raises(OSError, match=r"values\.npz"):
        write_dump(str(path), values, ids, HPARAMS)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_lists_every_value_with_its_shape(run, models_dir):
    out, _ = run(PROMPT, "--names")
    _, values = values_of(models_dir, PROMPT)
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == list(values)
    for line, value in zip(lines, values.values(), strict=True):
        assert " x ".join(map(str, value.shape)) in line
        assert value.function in line and line.endswith(value.description)


@pytest.mark.parametrize(("prompt", "stdin"), [("", ""), ("-", "a\r\n"), ("--no", "")])
def test_prompts_are_read_as_gpt2_reads_them(prompt, stdin, run, models_dir, tmp_path):
    run("--dump=values.npz", f"--prompt={prompt}", stdin=stdin)
    ids, _ = values_of(models_dir, stdin or prompt)
    assert np.load(tmp_path / "values.npz")["ids"].tolist() == ids


def test_of_a_long_prompt_the_end_is_read(run, models_dir, tmp_path):
    prompt = "a" * HPARAMS["n_ctx"] + "b"
    _, err = run(prompt, "--dump=values.npz")
    ids, _ = values_of(models_dir, prompt[1:])
    assert np.load(tmp_path / "values.npz")["ids"].tolist() == ids
    assert str(HPARAMS["n_ctx"]) in err


def test_without_a_network_the_bundled_model_is_used(run, tmp_path):
    _, err = run(PROMPT, "--dump=values.npz", model_size=None)
    assert "bundled" in err
    change(tmp_path / "values.npz", tmp_path / "theirs.npz", **{"h.0.mlp.gelu": None})
    run("--compare", "values.npz", "theirs.npz", model_size=None)


# ---------------------------------------------------------------- --compare


def test_a_dump_equals_itself(run):
    run(PROMPT, "--dump=a.npz")
    out, err = run("--compare", "a.npz", "a.npz")
    assert "equal" in out and err == ""


def test_the_first_difference_is_printed_with_its_place_and_a_hint(run, tmp_path):
    run(PROMPT, "--dump=ours.npz")
    with np.load(tmp_path / "ours.npz") as file:
        relu = np.maximum(file["h.1.mlp.c_fc"], 0)
        apart = np.abs(relu - file["h.1.mlp.gelu"])
        later = file["h.1"] + 1
    change(
        tmp_path / "ours.npz",
        tmp_path / "theirs.npz",
        **{"h.1.mlp.gelu": relu[None], "h.1": later, "h.0.attn.q": None, "h.1.attn.q": None},
    )
    # The model is the one that ours.npz says it is of.
    out, err = run("--compare", "ours.npz", "theirs.npz", model_size=None, code=1)
    assert err == ""
    row, column = np.unravel_index(apart.argmax(), apart.shape)
    first = out.index("h.1.mlp.gelu")
    assert f"{apart.max():.3g}, at [{row}, {column}]" in out[first:]
    assert "ReLU" in out[first:]
    assert "h.*.attn.q" in out[:first]  # is missing
    assert "h.1 " not in out


def test_the_tolerance_decides(run, tmp_path):
    run(PROMPT, "--dump=ours.npz")
    with np.load(tmp_path / "ours.npz") as file:
        logits = file["logits"].copy()
    logits[2, 5] = np.sign(logits[2, 5]) * (abs(logits[2, 5]) + 0.01)
    change(tmp_path / "ours.npz", tmp_path / "theirs.npz", logits=logits)
    run("--compare=ours.npz", "theirs.npz", "--tolerance=0.02")
    out, _ = run("--compare=ours.npz", "theirs.npz", "--tolerance=0.001", code=1)
    assert "0.01, at [2, 5]" in out


def test_of_numbers_above_1_the_tolerance_is_relative(models_dir):
    ours, theirs = dump_of(models_dir), dump_of(models_dir)
    assert np.abs(ours.arrays["logits"]).max() > 2
    index = np.unravel_index(np.abs(ours.arrays["logits"]).argmax(), ours.arrays["logits"].shape)
    theirs.arrays["logits"][index] *= np.float32(1.001)
    assert compare_dumps(ours, theirs, 1.1e-3).difference is None
    assert compare_dumps(ours, theirs, 0.9e-3).difference.name == "logits"


def dump_of(models_dir):
    ids, values = values_of(models_dir, PROMPT)
    path = str(models_dir / "dump.npz")
    write_dump(path, values, ids, HPARAMS)
    return read_dump(path)


def test_shapes_that_differ_are_said(models_dir, run, tmp_path):
    run(PROMPT, "--dump=ours.npz")
    with np.load(tmp_path / "ours.npz") as file:
        change(tmp_path / "ours.npz", tmp_path / "theirs.npz", **{"h.0.ln_1": file["h.0.ln_1"].T})
        n_seq, n_embd = file["h.0.ln_1"].shape
    out, _ = run("--compare", "ours.npz", "theirs.npz", code=1)
    assert f"[{n_seq}, {n_embd}]" in out and f"[{n_embd}, {n_seq}]" in out


def test_a_nan_is_a_difference(models_dir):
    ours, theirs = dump_of(models_dir), dump_of(models_dir)
    theirs.arrays["ln_f"][3, 4] = np.nan
    difference = compare_dumps(ours, theirs, 1e-4).difference
    assert difference.name == "ln_f" and difference.index == (3, 4)


def test_other_ids_are_the_first_difference(models_dir):
    ours, theirs = dump_of(models_dir), dump_of(models_dir)
    theirs.ids[1] += 1
    difference = compare_dumps(ours, theirs, 1e-4).difference
    assert difference.name == "ids" and difference.index == (1,)


def test_names_that_only_theirs_has_are_said(models_dir):
    ours, theirs = dump_of(models_dir), dump_of(models_dir)
    theirs.arrays["h.0.mlp.gelu_new"] = theirs.arrays.pop("h.0.mlp.gelu")
    found = compare_dumps(ours, theirs, 1e-4)
    assert found.difference is None
    assert (found.missing, found.unknown) == (["h.0.mlp.gelu"], ["h.0.mlp.gelu_new"])


def test_the_gap_is_what_theirs_lacks_just_before_the_difference(models_dir):
    ours, theirs = dump_of(models_dir), dump_of(models_dir)
    for name in ("wpe", "h.1.attn.q", "h.1.mlp.c_fc", "h.1.mlp.gelu"):
        del theirs.arrays[name]
    theirs.arrays["h.1.mlp.c_proj"] += 1
    found = compare_dumps(ours, theirs, 1e-4)
    assert found.difference.name == "h.1.mlp.c_proj"
    assert found.gap == ["h.1.mlp.c_fc", "h.1.mlp.gelu"]


def test_logits_alone_are_compared_but_get_no_hint(run, tmp_path):
    run(PROMPT, "--dump=ours.npz")
    with np.load(tmp_path / "ours.npz") as file:
        np.savez(tmp_path / "same.npz", logits=file["logits"])
        np.savez(tmp_path / "theirs.npz", logits=file["logits"] + 1)
    run("--compare", "ours.npz", "same.npz")
    out, _ = run("--compare", "ours.npz", "theirs.npz", code=1)
    assert "too many" in out and "perhaps" not in out


def test_without_the_model_there_is_no_hint_but_a_notice(run, tmp_path):
    run(PROMPT, "--dump=ours.npz")
    with np.load(tmp_path / "ours.npz") as file:
        change(tmp_path / "ours.npz", tmp_path / "theirs.npz", logits=file["logits"] + 1)
    out, err = run("--compare", "ours.npz", "theirs.npz", model_size="other", code=1)
    assert "logits" in out and "perhaps" not in out
    assert "--model_size" in err and len(err.splitlines()) == 1


# ---------------------------------------------------------------- what is wrong, in a line


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "prompt"),
        (["a prompt", "--out=no/folder/page.html"], "no/folder/page.html"),
        (["a prompt", "--out="], "name is empty"),
        (["a prompt", "--dump="], "name is empty"),
        (["a prompt", "--n_tokens_to_generate=-1"], "--n_tokens_to_generate"),
        (["a prompt", "--top_p=2"], "--top_p"),
        (["a prompt", "--serve", "--open"], "--open"),
        (["--dump=values.npz"], "prompt"),
        (["--compare=ours.npz"], "two files"),
        (["--compare=ours.npz", "theirs.npz", "--names"], "two files"),
        (["--compare=no.npz", "theirs.npz"], "no.npz"),
        (["--compare=text.npz", "text.npz"], "text.npz"),
        (["--compare=plain.npz", "plain.npz"], "plain.npz"),
        (["--compare=array.npy", "array.npy"], "array.npy"),
        (["--compare=words.npz", "words.npz"], "words.npz"),
        (["a", "--dump=no/folder/values.npz"], "no/folder/values.npz"),
        (["a", "--names", "--tolerance=-1"], "--tolerance"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments, names, run, tmp_path):
    (tmp_path / "text.npz").write_text("no dump", encoding="utf-8")
    np.savez(tmp_path / "plain.npz", logits=np.ones(3))
    np.save(tmp_path / "array.npy", np.ones(3))
    np.savez(tmp_path / "words.npz", logits=np.array(["a"]))
    out, err = run(*arguments, code=1)
    assert out == "" and names in err
    assert len(err.splitlines()) == 1 and err.startswith("explain.py: ")
    assert "pickle" not in err


@pytest.mark.parametrize("option", ["--out", "--dump"])
def test_a_folder_that_is_not_there_is_noticed_before_the_work(option, run):
    _, err = run(PROMPT, f"{option}=no/folder/file", model_size="nowhere", code=1)
    assert "no/folder" in err and "nowhere" not in err


def test_theirs_without_any_of_our_names_is_an_error(run, tmp_path):
    run(PROMPT, "--dump=ours.npz")
    np.savez(tmp_path / "theirs.npz", output=np.ones(3))
    _, err = run("--compare", "ours.npz", "theirs.npz", code=1)
    assert "theirs.npz" in err and "--names" in err


# ---------------------------------------------------------------- transformers


@pytest.mark.parametrize(
    ("hparams", "n_seq", "scale"), [(TINY, TINY["n_ctx"], 0.2), (GPT2_124M, 6, 0.03)]
)
def test_our_values_equal_those_of_transformers(hparams, n_seq, scale, tmp_path):
    pytest.importorskip("transformers", reason="compares with transformers live")
    pytest.importorskip("torch")
    from tests.references.dump_transformers import transformers_values
    from tests.references.transformers_gpt2 import transformers_gpt2

    params, ids = random_params(hparams, scale=scale), random_prompt(hparams, n_seq)
    values = watch(ids, params, hparams["n_head"])
    path = str(tmp_path / "ours.npz")
    write_dump(path, values, ids, hparams)
    theirs = transformers_values(transformers_gpt2(params, hparams), ids)
    assert set(theirs) == set(values)
    found = compare_dumps(read_dump(path), Dump("theirs.npz", theirs, None, {}), 1e-4)
    assert found.difference is None and found.equal == list(values)
    assert all(np.abs(value.array).max() > 0.1 for value in values.values())


def test_the_script_for_transformers_writes_a_file_to_compare(
    run, models_dir, tmp_path, monkeypatch
):
    pytest.importorskip("transformers", reason="compares with transformers live")
    pytest.importorskip("torch")
    from tests.references import dump_transformers

    run(PROMPT, "--dump=ours.npz")
    ours, theirs = tmp_path / "ours.npz", tmp_path / "theirs.npz"
    arguments = [str(ours), str(theirs), str(models_dir / "tiny")]
    monkeypatch.setattr(sys, "argv", ["dump_transformers.py", *arguments])
    dump_transformers.main()
    found = compare_dumps(read_dump(str(ours)), read_dump(str(theirs)), 1e-4)
    assert (found.difference, found.missing, found.unknown) == (None, [], [])
