"""train.py: the command, what it writes, and that a run can be stopped and resumed."""

import csv
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

import gpt2
import train
from fast.threads import one_blas_thread
from training import checkpoint, data
from training.learning_rate import WARMUP_STEPS
from training.options import OF_THE_MODEL, Options
from training.run import Run
from utils import load_encoder_hparams_and_params, named

N_HEAD, N_EMBD, N_CTX, BATCH_SIZE, N_MERGES = 2, 16, 16, 4, 20
N_VOCAB = 256 + N_MERGES + 1  # bytes, merges, <|endoftext|>
SIZES = [
    "--n_layer=1",
    f"--n_head={N_HEAD}",
    f"--n_embd={N_EMBD}",
    f"--n_ctx={N_CTX}",
    f"--batch_size={BATCH_SIZE}",
    f"--tokenizer=bpe:{N_MERGES}",
]


def run_train(*arguments, code=0, **environment):
    """Run train.py as a program: -> what it wrote on standard error"""
    done = subprocess.run(
        [sys.executable, train.__file__, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=os.environ | environment,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return done.stderr


def read_log(out):
    with open(out / "log.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def many_functions(tmp_path_factory):
    """A folder to learn from."""
    folder = tmp_path_factory.mktemp("data")
    text = "\n".join(f"def f{i}(x):\n    return x + {i}\n" for i in range(60))
    (folder / "many.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(many_functions, tmp_path_factory):
    """The folder of a finished run, and its standard error."""
    out = tmp_path_factory.mktemp("models") / "small"
    log = run_train(
        f"--data={many_functions}", f"--out={out}", *SIZES, "--steps=60", "--eval_every=20"
    )
    return out, log


# ---------------------------------------------------------------- what a run writes


def test_the_loss_falls(trained):
    out, log = trained
    rows = read_log(out)
    tokens_per_step = BATCH_SIZE * N_CTX
    assert [int(row["step"]) for row in rows] == [20, 40, 60]
    assert [int(row["tokens"]) for row in rows] == [n * tokens_per_step for n in (20, 40, 60)]
    assert float(rows[0]["held_out_loss"]) > float(rows[-1]["held_out_loss"])
    assert float(rows[0]["loss"]) > float(rows[-1]["loss"])
    for row in rows:
        assert f"held-out {float(row['held_out_loss']):.4f}" in log


def test_nothing_unfinished_stays_behind(trained):
    names = {"config.json", "vocab.json", "merges.txt", "model.safetensors"}
    names |= {"log.csv", "loss.svg", checkpoint.NAME}
    if not find_spec("matplotlib"):
        names.remove("loss.svg")
    assert set(files_in(trained[0])) == names


def test_a_run_writes_the_curve(trained):
    pytest.importorskip("matplotlib")
    assert ElementTree.parse(trained[0] / "loss.svg").getroot().tag.endswith("svg")


def test_without_matplotlib_a_run_says_so_once_and_goes_on(many_functions, tmp_path):
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "matplotlib.py").write_text("raise ImportError('not here')", encoding="utf-8")
    out = tmp_path / "out"
    arguments = [f"--data={many_functions}", f"--out={out}", *SIZES, "--steps=3", "--eval_every=1"]
    log = run_train(*arguments, PYTHONPATH=str(absent))
    assert log.count("matplotlib") == 2  # what is missing, and how to install it, on one line
    assert len([line for line in log.splitlines() if "matplotlib" in line]) == 1
    assert len(read_log(out)) == 3 and not (out / "loss.svg").exists()


def test_the_folder_runs_in_gpt2_and_in_transformers(trained):
    out, _ = trained
    encoder, hparams, params = load_encoder_hparams_and_params(out.name, str(out.parent))
    assert hparams["n_ctx"] == N_CTX and hparams["n_vocab"] == len(encoder.encoder) <= N_VOCAB
    ids = encoder.encode("def f1(x):\n")[:N_CTX]
    logits = gpt2.gpt2(ids, **params, n_head=N_HEAD)
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel.from_pretrained(out)
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(logits - theirs).max() < 1e-4


def test_a_run_killed_and_resumed_ends_with_the_same_bytes(trained, many_functions, tmp_path):
    out = tmp_path / "killed"
    arguments = [f"--data={many_functions}", f"--out={out}", *SIZES, "--steps=60"]
    arguments += ["--eval_every=20"]
    command = [sys.executable, "-u", train.__file__, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as process:
        while not process.stderr.readline().startswith("step 20:"):
            pass
        process.kill()
    run_train(*arguments, "--resume")
    whole = (trained[0] / "model.safetensors").read_bytes()
    assert (out / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("moment", ["first state", "first model", "log", "last state"])
def test_a_run_that_dies_while_it_saves_can_be_resumed(moment, trained, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*arguments, **arrays):
        raise Killed

    out = str(tmp_path / "out")
    options = {"out": out, "steps": 60, "eval_every": 20}
    run = Run(options_of(trained[0], **options))
    if moment == "first state":
        monkeypatch.setattr(np, "savez", die)
    elif moment == "first model":
        monkeypatch.setattr(run, "save_model", die)
    elif moment == "log":
        monkeypatch.setattr("training.log.write_losses", die)
    else:
        save_state = run.save_state
        monkeypatch.setattr(
            run, "save_state", lambda: die() if run.state.n_steps == 60 else save_state()
        )
    with pytest.raises(Killed):
        run.train()
    monkeypatch.undo()
    resume = moment != "first state"  # then there was nothing yet to go on from
    Run(options_of(trained[0], **options, resume=resume)).train()
    assert read_log(Path(out))[-1] | {"minutes": 0} == read_log(trained[0])[-1] | {"minutes": 0}
    model = (trained[0] / "model.safetensors").read_bytes()
    assert Path(out, "model.safetensors").read_bytes() == model


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("init_from", ""),
        ("n_layer", "9" * 12),
        ("n_ctx", "9" * 15),
        ("batch_size", "9" * 20),
        ("learning_rate", "1" + "0" * 400),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(option, value, tmp_path):
    out = tmp_path / "out"
    err = run_train(f"--{option}={value}", "--data=nowhere", f"--out={out}", code=1)
    assert option in err and err.count("\n") == 1 and "nowhere" not in err
    assert not out.exists()


def test_a_run_is_not_resumed_on_other_documents(trained, many_functions, tmp_path):
    out, data = tmp_path / "out", tmp_path / "data"
    shutil.copytree(many_functions, data)
    options = {"data": str(data), "out": str(out), "steps": 2}
    Run(options_of(trained[0], **options)).train()
    before = files_in(out)
    path = data / "many.py"
    path.write_text(path.read_text("utf-8").replace("x + 7\n", "x + 8\n"), encoding="utf-8")
    with pytest.raises(ValueError, match="documents"):
        Run(options_of(trained[0], **options, resume=True))
    assert files_in(out) == before


def test_the_standard_library_of_another_python_is_other_data(trained, tmp_path, monkeypatch):
    libraries = {"3.11": tmp_path / "3.11", "3.12": tmp_path / "3.12"}
    for version, library in libraries.items():
        library.mkdir()
        text = "".join(f"def f{i}():\n    return {version} + {i}\n" for i in range(60))
        (library / "a.py").write_text(text, encoding="utf-8")
    options = {"data": None, "out": str(tmp_path / "out"), "steps": 2}
    here = SimpleNamespace(get_paths=lambda: {"stdlib": str(libraries["3.11"])})
    monkeypatch.setattr(data, "sysconfig", here)
    Run(options_of(trained[0], **options)).train()
    Run(options_of(trained[0], **options, resume=True))
    here.get_paths = lambda: {"stdlib": str(libraries["3.12"])}
    with pytest.raises(ValueError, match="documents"):
        Run(options_of(trained[0], **options, resume=True))


def test_a_resumed_run_keeps_its_tokenizer(trained, tmp_path):
    """Even if the folder that it was taken from has another one by now."""
    tokenizer, out = tmp_path / "tokenizer", tmp_path / "out"
    shutil.copytree(trained[0], tokenizer)
    options = {"tokenizer": str(tokenizer), "out": str(out), "eval_every": 1}
    Run(options_of(trained[0], steps=1, **options)).train()
    lines = (tokenizer / "merges.txt").read_text("utf-8").splitlines()
    (tokenizer / "merges.txt").write_text("\n".join([lines[0], *lines[:0:-1]]), encoding="utf-8")
    Run(options_of(trained[0], steps=2, resume=True, **options)).train()
    for name in ("vocab.json", "merges.txt"):
        assert (out / name).read_bytes() == (trained[0] / name).read_bytes()


def of_the_model(**options):
    """Options of fine-tuning: what the model brings is not given."""
    return dict.fromkeys(OF_THE_MODEL) | options


def test_fine_tuning_goes_on_without_the_model_it_began_with(trained, tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(trained[0], base)
    options = of_the_model(init_from=str(base), out=str(out))
    Run(options_of(trained[0], **options, steps=1)).train()
    shutil.rmtree(base)
    run = Run(options_of(trained[0], **options, steps=2, resume=True))
    run.train()
    assert run.state.n_steps == 2


def test_fine_tuning_the_model_of_the_present_folder(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(trained[0])
    options = of_the_model(init_from=".", out=str(tmp_path / "out"))
    options = options_of(trained[0], **options)
    assert Run(options).state.hparams["n_ctx"] == N_CTX


@pytest.mark.parametrize("way", ["a folder", "one array", "another version's"])
def test_what_is_no_checkpoint_is_reported_in_one_line(way, trained, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(trained[0], out)
    run, arrays = checkpoint.load(out)
    (out / checkpoint.NAME).unlink()
    if way == "a folder":
        (out / checkpoint.NAME).mkdir()
    elif way == "one array":
        with open(out / checkpoint.NAME, "wb") as file:
            np.save(file, np.zeros(3))
    else:
        old = {name: value for name, value in vars(run).items() if name != "vocabulary"}
        np.savez(out / checkpoint.NAME, run=json.dumps(old), **arrays)
    with pytest.raises(ValueError, match=f"--resume: .*{checkpoint.NAME}.*") as caught:
        Run(Options(**(run.options | {"out": str(out), "resume": True})))
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_said_in_one_line_and_nothing_is_changed(
    trained, many_functions, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(trained[0], out)
    whole = (out / checkpoint.NAME).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2]):
        (out / checkpoint.NAME).write_bytes(damaged)
        before = files_in(out)
        arguments = [f"--data={many_functions}", f"--out={out}", *SIZES, "--resume"]
        error = run_train(*arguments, code=1)
        assert error.count("\n") == 1 and checkpoint.NAME in error
        assert files_in(out) == before


def options_of(trained_folder, **changes):
    """The options of the run in a folder, with some changed."""
    run, _ = checkpoint.load(trained_folder)
    options = Options(**(run.options | changes))
    Path(options.out).mkdir(exist_ok=True)
    return options


def test_a_long_run_stopped_and_resumed_with_fewer_steps_is_the_shorter_run(trained, tmp_path):
    """Until the cooldown begins, nothing depends on the number of steps in all."""
    shorter = {"steps": 40, "cooldown": 0.5, "eval_every": 20}
    whole = Run(options_of(trained[0], out=str(tmp_path / "whole"), **shorter))
    whole.train()
    out = str(tmp_path / "longer")
    longer = Run(options_of(trained[0], out=out, steps=1000, cooldown=0.2))
    with one_blas_thread:
        for _ in range(20):  # half of the 40: where the cooldown of the shorter run begins
            loss = longer.step()
    longer.evaluate(loss)
    resumed = Run(options_of(trained[0], out=out, resume=True, **shorter))
    resumed.train()
    assert resumed.state.n_steps == 40
    expected = named(whole.learner.params)
    for name, p in named(resumed.learner.params).items():
        np.testing.assert_array_equal(p, expected[name])


def test_each_optimizer_has_its_own_rate_and_its_own_parameters(trained, tmp_path):
    def changed_in_one_step(**changes):
        options = options_of(trained[0], out=str(tmp_path / "out"), weight_decay=0.0, **changes)
        training = Run(options)
        params = named(training.learner.params)
        before = {name: p.copy() for name, p in params.items()}
        training.step()
        return {name for name, p in params.items() if (p != before[name]).any()}

    matrices = {f"blocks.0.{name}.w" for name in ("attn.c_attn", "attn.c_proj")}
    matrices |= {f"blocks.0.{name}.w" for name in ("mlp.c_fc", "mlp.c_proj")}
    assert changed_in_one_step(learning_rate=0.0) == matrices
    others = changed_in_one_step(muon_learning_rate=0.0)
    assert {"wte", "wpe", "ln_f.g", "blocks.0.mlp.c_fc.b"} <= others
    assert others.isdisjoint(matrices)
    assert changed_in_one_step(optimizer="adamw", muon_learning_rate=0.0) == matrices | others


def test_held_out_documents_of_their_own(many_functions, tmp_path):
    """Then all of --data is trained on, and its tokens are those of a run without a split."""
    held_out, out = tmp_path / "held_out.jsonl", tmp_path / "out"
    texts = [f"y = {i}\n" for i in range(10)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    held_out.write_text(lines, encoding="utf-8")
    arguments = [f"--data={many_functions}", f"--held_out={held_out}", f"--out={out}", *SIZES]
    run_train(*arguments, "--tokenizer=char", "--steps=1")
    training = Run(options_of(out, out=str(tmp_path / "again")))
    encoder = training.data.encoder
    assert encoder.decode(training.data.held_out_ids.tolist()) == "".join(
        f"{text}<|endoftext|>" for text in texts
    )
    trained_on = encoder.decode(training.data.train_ids.tolist()).split("<|endoftext|>")
    assert len([text for text in trained_on if text]) == 60


def test_a_held_out_text_may_have_a_lone_surrogate(many_functions, tmp_path):
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"text": "\\ud800 and much more text"}\n', encoding="utf-8")
    arguments = [f"--data={many_functions}", f"--held_out={held_out}", *SIZES, "--tokenizer=char"]
    run_train(*arguments, f"--out={tmp_path / 'out'}", "--steps=1")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_the_rate_follows_the_steps_or_the_clock(trained, tmp_path):
    options = options_of(trained[0], out=str(tmp_path / "out"), steps=200, cooldown=0.25)
    training = Run(options)
    factors = {}
    for n_done in (0, 120, 199):
        training.state.n_steps = n_done
        factors[n_done] = training.rate_factor()
    assert factors == {0: 1 / WARMUP_STEPS, 120: 1, 199: pytest.approx(1 / 50)}
    training.options = options_of(trained[0], minutes=1000.0, cooldown=0.25)
    training.started = time.monotonic() - 60 * 900  # seconds
    assert training.rate_factor() == pytest.approx(0.4, abs=0.01)


# ---------------------------------------------------------------- one training in a folder


@pytest.fixture
def running(many_functions, tmp_path):
    """The arguments of a training that goes on until it is stopped, and its process."""
    arguments = [f"--data={many_functions}", f"--out={tmp_path / 'out'}", *SIZES]
    command = [sys.executable, train.__file__, *arguments, "--steps=1000000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as process:
        while "tokens to train on" not in process.stderr.readline():
            pass
        yield arguments, process
        process.kill()


def test_a_second_training_is_refused_while_the_first_one_lives(running, tmp_path):
    arguments, process = running
    for more in ([], ["--resume"]):
        error = run_train(*arguments, *more, code=1)
        assert error.count("\n") == 1 and "another training" in error
    process.kill()
    process.wait()
    run_train(*arguments, "--steps=1", "--resume")
    assert "training" not in {path.stem for path in (tmp_path / "out").iterdir()}


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent in another way")
def test_ctrl_c_says_in_one_line_what_is_kept(running):
    arguments, process = running
    while not process.stderr.readline().startswith("step "):
        pass
    process.send_signal(signal.SIGINT)
    lines = process.stderr.read().splitlines()
    assert process.wait() == 130
    assert "--resume" in lines[-1] and "Traceback" not in "".join(lines)
    step = int(lines[-1].split("step ")[1].split()[0])
    log = run_train(*arguments, f"--steps={step + 1}", "--resume")
    assert f"step {step + 1}:" in log


def test_what_a_killed_training_left_unfinished_is_removed(trained, many_functions, tmp_path):
    out = tmp_path / "out"
    arguments = [f"--data={many_functions}", f"--out={out}", *SIZES, "--eval_every=1"]
    for more in (["--steps=1"], ["--steps=2", "--resume"]):
        (out / "unfinished-abc").mkdir(parents=True)
        (out / "unfinished-abc" / "config.json").touch()
        (out / f"unfinished-{checkpoint.NAME}").write_bytes(b"half")
        run_train(*arguments, *more)
        assert not list(out.glob("unfinished-*"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_is_read_only_is_refused_at_once(many_functions, tmp_path):
    tmp_path.chmod(0o500)
    for out in (tmp_path, tmp_path / "new"):
        error = run_train(f"--data={many_functions}", f"--out={out}", *SIZES, code=1)
        assert error.count("\n") == 1 and str(tmp_path) in error


# ---------------------------------------------------------------- what a user may do wrong


@pytest.mark.parametrize(
    "arguments",
    [
        ["--n_embd=16", "--n_head=3"],
        ["--steps=0"],
        ["--steps=many"],
        ["--tokenizer=words"],
        ["--tokenizer=bpe:x"],
        ["--preset=huge"],
        ["--dropout=1"],
        ["--optimizer=sgd"],
        ["--muon_learning_rate=-1"],
        ["--cooldown=1.5"],
        ["--held_out=no_such_folder"],
        ["--minutes=-1"],
        ["--minutes=0"],
        ["--grad_clip=0"],
        ["--init_from=no_such_folder"],
        ["--out=/dev/null/x"],
        ["--init_from=models", "--n_layer=2"],
        ["--n_ctx=100000"],
        ["--data=no_such_folder"],
        ["--data="],
        ["--held_out="],
        ["--init_from="],
        ["--tokenizer="],
        ["--out="],
        ["--n_layer=1000000000"],
        ["--n_embd=400000"],
        ["--batch_size=10000000000"],
        ["--resume"],
        ["--stpes=3"],
        ["stray"],
    ],
)
def test_a_users_error_is_one_line_and_leaves_nothing(arguments, many_functions, tmp_path):
    out = tmp_path / "out"
    error = run_train(f"--data={many_functions}", f"--out={out}", *SIZES, *arguments, code=1)
    assert error.count("\n") == 1 and "Traceback" not in error
    assert not out.exists()


def test_a_folder_with_something_in_it_is_not_written_over(trained, many_functions, tmp_path):
    out = tmp_path / "other"
    shutil.copytree(trained[0], out)
    before = files_in(out)
    run_train(f"--data={many_functions}", f"--out={out}", *SIZES, code=1)
    assert files_in(out) == before


def test_an_infinite_loss_ends_the_run(many_functions, tmp_path):
    arguments = ["--steps=60", "--eval_every=1", "--learning_rate=1e30"]
    error = run_train(
        f"--data={many_functions}", f"--out={tmp_path / 'out'}", *SIZES, *arguments, code=1
    )
    assert "Traceback" not in error and "--learning_rate" in error.split("\n")[-2]
    assert "Warning" not in error


def test_too_little_held_out_text_names_the_option(trained, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("a", encoding="utf-8")
    options = options_of(trained[0], held_out=str(short), out=str(tmp_path / "out"))
    with pytest.raises(ValueError, match="give more --data or --held_out"):
        Run(options)


def resume(trained_folder, out, **changes):
    """The run in a copy of `trained_folder`, ready to go on with other options."""
    shutil.copytree(trained_folder, out)
    return Run(options_of(out, out=str(out), resume=True, **changes))


def test_what_is_broken_is_not_saved(trained, tmp_path):
    training = resume(trained[0], tmp_path / "out", steps=100, eval_every=1)
    before = files_in(training.out)
    params = training.learner.params
    params["wte"][:], wpe = np.nan, params["wpe"].copy()
    with pytest.raises(ValueError, match="step 60 is kept"):
        training.train()
    assert training.state.n_steps == 60 and np.array_equal(params["wpe"], wpe)
    with pytest.raises(ValueError, match="step 60 is kept"):
        training.evaluate(1.0)
    assert files_in(training.out) == before


def test_a_run_that_breaks_at_once_keeps_its_beginning(trained, tmp_path):
    training = Run(options_of(trained[0], out=str(tmp_path / "out")))
    training.learner.step = lambda *_: math.nan
    with pytest.raises(ValueError, match="step 0 is kept"):
        training.train()
    assert checkpoint.load(training.out)[0].n_steps == 0


def test_fine_tuning_starts_from_the_model_and_keeps_its_vocabulary(
    trained, many_functions, tmp_path
):
    out = tmp_path / "tuned"
    arguments = ["--steps=5", "--eval_every=1", "--n_ctx=8", "--batch_size=4"]
    run_train(f"--data={many_functions}", f"--out={out}", f"--init_from={trained[0]}", *arguments)
    first = float(read_log(out)[0]["held_out_loss"])
    assert first < 5 < np.log(N_VOCAB)  # which is where a new model starts
    assert (out / "vocab.json").read_bytes() == (trained[0] / "vocab.json").read_bytes()
    _, hparams, _ = load_encoder_hparams_and_params(out.name, str(out.parent))
    assert hparams["n_ctx"] == N_CTX


def test_fine_tuning_takes_the_tokenizer_of_the_weights(trained, many_functions, tmp_path):
    """Where both layouts are complete, own weights in the safetensors file are what is read."""
    folder = tmp_path / "both"
    shutil.copytree(trained[0], folder)
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    backwards = dict(zip(vocabulary, reversed(vocabulary.values()), strict=True))
    (folder / "encoder.json").write_text(json.dumps(backwards), encoding="utf-8")
    shutil.copy(folder / "merges.txt", folder / "vocab.bpe")
    (folder / "hparams.json").write_text("{}", encoding="utf-8")
    for name in ("checkpoint", "model.ckpt.index", "model.ckpt.data-00000-of-00001"):
        (folder / name).write_bytes(b"not read")
    out = tmp_path / "tuned"
    arguments = ["--steps=1", f"--n_ctx={N_CTX}", f"--batch_size={BATCH_SIZE}"]
    run_train(f"--data={many_functions}", f"--out={out}", f"--init_from={folder}", *arguments)
    assert json.loads((out / "vocab.json").read_text(encoding="utf-8")) == vocabulary


def test_the_vocabulary_of_another_model(trained, many_functions, tmp_path):
    out = tmp_path / "other"
    arguments = [*SIZES, f"--tokenizer={trained[0]}", "--steps=1"]
    run_train(f"--data={many_functions}", f"--out={out}", *arguments)
    assert (out / "vocab.json").read_bytes() == (trained[0] / "vocab.json").read_bytes()


def test_other_options_cannot_resume_a_run(trained, many_functions):
    arguments = [f"--data={many_functions}", f"--out={trained[0]}", *SIZES, "--steps=60"]
    error = run_train(*arguments, "--resume", "--seed=3", code=1)
    assert error.count("\n") == 1 and "--seed 0" in error


def test_minutes_end_a_run(many_functions, tmp_path):
    out = tmp_path / "short"
    run_train(
        f"--data={many_functions}", f"--out={out}", *SIZES, "--minutes=0.02", "--eval_every=100000"
    )
    last = read_log(out)[-1]
    assert int(last["step"]) > 3 and float(last["minutes"]) >= 0.02


@pytest.mark.parametrize("seconds", range(20, 28))
def test_whenever_the_minutes_end_the_last_step_is_saved(trained, tmp_path, monkeypatch, seconds):
    """A second passes each time that the clock is read, and no step reads it eight times."""
    training = resume(trained[0], tmp_path / "out", minutes=seconds / 60, eval_every=1000)
    training.state.minutes, n_before = 0.0, training.state.n_steps
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr("training.run.time", clock)
    training.train()
    assert training.state.history[-1]["step"] == training.state.n_steps > n_before


def test_half_stores_float16(many_functions, tmp_path):
    out = tmp_path / "half"
    run_train(f"--data={many_functions}", f"--out={out}", *SIZES, "--steps=2", "--half")
    stored = (out / "model.safetensors").read_bytes()
    header = json.loads(stored[8 : 8 + int.from_bytes(stored[:8], "little")])
    assert {t["dtype"] for name, t in header.items() if name != "__metadata__"} == {"F16"}
