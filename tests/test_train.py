"""train.py: every gradient against central differences and PyTorch, the optimizer, the loop."""

import csv
import json
import math
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import regex
from random_models import TINY, random_params

import gpt2
import train
from utils import load_encoder_hparams_and_params

RNG = np.random.default_rng(0)


def check_gradient(function, arrays, gradients, bound=1e-7):
    """Compare `gradients` of the number function() with central differences along one random
    direction in each of `arrays`, which function reads (float64; the step is a compromise between
    rounding and curvature)."""
    for name, array in arrays.items():
        # Of a few directions the one that changes most: along others differences only round.
        directions = RNG.standard_normal((8, *array.shape))
        direction = max(directions, key=lambda d: abs(np.sum(gradients[name] * d)))
        step = 1e-5
        original = array.copy()
        values = []
        for sign in (2, 1, -1, -2):  # five-point rule: error of order step^4
            array[...] = original + sign * step * direction
            values.append(function())
        array[...] = original
        a, b, c, d = values
        numeric = (8 * (b - c) - (a - d)) / (12 * step)
        exact = np.sum(gradients[name] * direction)
        assert abs(numeric - exact) <= bound * max(abs(numeric), abs(exact)), name


def check_layer(forward, backward, x, weights=None):
    """Check dx and the gradients of `weights` for the loss sum(out * random)."""
    weights = weights or {}
    out, cache = forward(x.copy(), **weights)
    dout = RNG.standard_normal(out.shape)
    result = backward(dout, cache)
    dx, dweights = result if isinstance(result, tuple) else (result, {})
    check_gradient(
        lambda: np.sum(forward(x.copy(), **weights)[0] * dout),
        {"x": x, **weights},
        {"x": dx, **dweights},
    )


# ---------------------------------------------------------------- gradients


def test_linear_gradient():
    weights = {"w": RNG.standard_normal((5, 4)), "b": RNG.standard_normal(4)}
    check_layer(train.linear_forward, train.linear_backward, RNG.standard_normal((7, 5)), weights)


def test_layer_norm_gradient():
    weights = {"g": RNG.standard_normal(6), "b": RNG.standard_normal(6)}
    x = RNG.standard_normal((5, 6)) + 1
    check_layer(train.layer_norm_forward, train.layer_norm_backward, x, weights)


def test_gelu_gradient():
    x = 3 * RNG.standard_normal((6, 4))
    check_layer(train.gelu_forward, train.gelu_backward, x)


@pytest.mark.parametrize("n_head", [1, 2, 6])
def test_attention_gradient(n_head):
    qkv = RNG.standard_normal((3 * 5, 3 * 6))  # three sequences of five positions

    def forward(qkv):
        return train.attention_forward(qkv, n_head, 5)

    check_layer(forward, train.attention_backward, qkv)


def test_embedding_gradient():
    inputs = np.array([[0, 3, 3], [1, 3, 0]])  # ids that occur more than once, and not at all
    arrays = {"wte": RNG.standard_normal((5, 4)), "wpe": RNG.standard_normal((6, 4))}
    out, cache = train.embedding_forward(inputs, **arrays)
    dout = RNG.standard_normal(out.shape)
    dwte, dwpe = train.embedding_backward(dout, cache)
    check_gradient(
        lambda: np.sum(train.embedding_forward(inputs, **arrays)[0] * dout),
        arrays,
        {"wte": dwte, "wpe": dwpe},
    )


def test_cross_entropy_gradient():
    logits, targets = RNG.standard_normal((6, 5)), RNG.integers(0, 5, 6)
    _, dlogits = train.cross_entropy(logits, targets)
    check_gradient(
        lambda: train.cross_entropy(logits, targets)[0], {"logits": logits}, {"logits": dlogits}
    )


def test_block_gradient():
    block = random_params(TINY, dtype=np.float64)["blocks"][0]
    x = RNG.standard_normal((2 * 5, TINY["n_embd"]))
    out, cache = train.block_forward(x, block, 3, 5)
    dout = RNG.standard_normal(out.shape)
    dx, dblock = train.block_backward(dout, cache)
    check_gradient(
        lambda: np.sum(train.block_forward(x, block, 3, 5)[0] * dout),
        {"x": x, **dict(train.named(block))},
        {"x": dx, **dict(train.named(dblock))},
    )


def batch(hparams, n_seq=3, n_ctx=9):
    ids = np.random.default_rng(2).integers(0, hparams["n_vocab"], (n_seq, n_ctx + 1))
    return ids[:, :-1], ids[:, 1:]


def test_whole_model_gradient():
    params = random_params(TINY, dtype=np.float64)
    inputs, targets = batch(TINY)
    _, grads = train.loss_and_grads(params, 3, inputs, targets)
    assert [name for name, _ in train.named(grads)] == [name for name, _ in train.named(params)]
    check_gradient(
        lambda: train.loss_and_grads(params, 3, inputs, targets)[0],
        dict(train.named(params)),
        dict(train.named(grads)),
    )


def test_gradients_equal_those_of_autograd():
    torch = pytest.importorskip("torch", reason="compares with PyTorch's autograd")
    pytest.importorskip("transformers")
    from references import transformers_gpt2

    params = random_params(TINY)
    inputs, targets = batch(TINY)
    model = transformers_gpt2(params, TINY).double()  # so that all that rounds is ours
    logits = model(torch.tensor(inputs)).logits
    expected = torch.nn.functional.cross_entropy(
        logits.reshape(-1, TINY["n_vocab"]), torch.tensor(targets).reshape(-1)
    )
    expected.backward()
    loss, grads = train.loss_and_grads(params, 3, inputs, targets)
    assert abs(loss - expected.item()) < 1e-5
    theirs = dict(model.transformer.named_parameters())
    ours = dict(train.named(grads))
    assert len(ours) == len(theirs)
    for name, grad in ours.items():
        *scope, leaf = name.split(".")
        leaf = {"w": "weight", "g": "weight", "b": "bias"}.get(leaf, f"{leaf}.weight")
        expected = theirs[".".join([*scope, leaf]).replace("blocks", "h")].grad.numpy()
        assert grad.dtype == np.float32
        assert np.linalg.norm(grad - expected) <= 1e-5 * np.linalg.norm(expected), name


def test_dropout_gradient():
    params = random_params(TINY, dtype=np.float64)
    inputs, targets = batch(TINY)

    def loss_and_grads():  # the same draws each time
        return train.loss_and_grads(params, 3, inputs, targets, 0.3, np.random.default_rng(5))

    _, grads = loss_and_grads()
    without = train.loss_and_grads(params, 3, inputs, targets)[0]
    assert abs(loss_and_grads()[0] - without) > 1e-3
    check_gradient(lambda: loss_and_grads()[0], dict(train.named(params)), dict(train.named(grads)))


def test_dropout_zeroes_its_part_and_keeps_the_mean():
    x, mask = train.dropout_forward(np.ones((500, 400), np.float32), 0.4, np.random.default_rng(0))
    assert x.dtype == mask.dtype == np.float32
    assert abs((x == 0).mean() - 0.4) < 0.01 and abs(x.mean() - 1) < 0.01
    assert len(np.unique(x)) == 2
    same, mask = train.dropout_forward(x, 0.4, None)
    assert same is x and mask is None


def test_ten_steps_follow_pytorch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    pytest.importorskip("transformers")
    from references import transformers_gpt2

    params = random_params(TINY, scale=0.1)
    model = transformers_gpt2(params, TINY)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "wpe" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "wpe" in name]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}]
    theirs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99), eps=1e-8)
    ours, workers = train.AdamW(params), train.Workers(params, 3, n_ctx=9)
    inputs, targets = batch(TINY, n_seq=6)
    losses = []
    for _ in range(10):
        logits = model(torch.tensor(inputs)).logits.reshape(-1, TINY["n_vocab"])
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(targets).reshape(-1))
        theirs.zero_grad()
        expected.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        theirs.step()
        loss, grads = workers.loss_and_grads(inputs, targets)
        ours.step(params, grads, 1e-2)
        losses.append(loss)
        assert abs(loss - expected.item()) <= 1e-4
    assert losses[-1] < losses[0] - 0.5


# ---------------------------------------------------------------- the forward pass


def test_forward_computes_the_model_of_gpt2():
    params = random_params(TINY, dtype=np.float64)
    inputs, _ = batch(TINY)
    logits, _ = train.forward(params, 3, inputs)
    for ids, rows in zip(inputs, logits.reshape(3, 9, -1), strict=True):
        np.testing.assert_allclose(rows, gpt2.gpt2(ids, **params, n_head=3), atol=1e-12)


def test_float32_stays_float32():
    loss, grads = train.loss_and_grads(random_params(TINY), 3, *batch(TINY))
    assert isinstance(loss, float)
    assert {grad.dtype for _, grad in train.named(grads)} == {np.dtype(np.float32)}


def test_a_batch_in_pieces_gives_the_gradients_of_the_whole():
    params = random_params(TINY, dtype=np.float64)
    inputs, targets = batch(TINY, n_seq=7)  # pieces of 3, 3 and 1
    loss, grads = train.loss_and_grads(params, 3, inputs, targets)
    workers = train.Workers(params, 3, n_ctx=9)
    workers.piece = 3
    summed_loss, summed = workers.loss_and_grads(inputs, targets)
    assert math.isclose(loss, summed_loss, rel_tol=1e-12)
    assert math.isclose(loss, workers.loss(inputs, targets), rel_tol=1e-12)
    for name, grad in train.named(grads):
        np.testing.assert_allclose(summed[name], grad, atol=1e-12)


# ---------------------------------------------------------------- AdamW


def test_adamw_follows_pytorch():
    torch = pytest.importorskip("torch", reason="compares with torch.optim.AdamW")
    params = {"wpe": RNG.standard_normal((3, 4)), "w": RNG.standard_normal((3, 4)), "b": np.ones(4)}
    theirs = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in params.items()}
    kept = [{"params": [theirs["w"]], "weight_decay": 0.1}]
    kept.append({"params": [theirs["wpe"], theirs["b"]], "weight_decay": 0.0})
    reference = torch.optim.AdamW(kept, lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    ours = train.AdamW(params, weight_decay=0.1, clip=1.0)
    for _ in range(10):
        grads = {name: RNG.standard_normal(p.shape) for name, p in params.items()}
        for name, p in theirs.items():
            p.grad = torch.tensor(grads[name])
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        reference.step()
        ours.step(params, grads, 0.01)
    for name, p in params.items():
        np.testing.assert_allclose(p, theirs[name].detach().numpy(), rtol=1e-10)


# ---------------------------------------------------------------- data

SOURCE = '''
import os

@decorated
def first(a,
          b=1):
    """Adds."""
    def inner():
        return a
    return inner() + b


class Thing:
    def method(self):
        return "é"

    async def other(self): pass

if True:
    def first_again(): ...
'''


@pytest.fixture
def source_folder(tmp_path):
    folder = tmp_path / "source"
    (folder / "tests").mkdir(parents=True)
    (folder / "a.py").write_text(SOURCE, encoding="utf-8")
    (folder / "b.py").write_text(SOURCE, encoding="utf-8")
    (folder / "broken.py").write_text("def (:", encoding="utf-8")
    (folder / "latin.py").write_bytes(b"def f(): return '\xe9'")
    (folder / "tests" / "c.py").write_text("def test_it(): ...", encoding="utf-8")
    return folder


def test_every_function_and_method_once_and_dedented(source_folder):
    functions = train.read_documents(str(source_folder))
    assert [text.split("(")[0] for text in functions] == [
        "def first",
        "def method",
        "async def other",
        "def first_again",
    ]
    assert functions[0].startswith("def first(a,\n          b=1):\n    ")
    assert functions[1] == 'def method(self):\n    return "é"\n'


def test_text_files_and_packages(source_folder, tmp_path):
    (source_folder / "notes.txt").write_text("Zwölf", encoding="utf-8")
    assert train.read_documents(str(source_folder))[-1] == "Zwölf"
    assert train.read_documents(str(source_folder / "notes.txt")) == ["Zwölf"]
    package = train.read_documents("hypothesis")
    assert len(package) > 100 and all("def " in text for text in package)
    assert len(train.read_documents()) > 10_000


@pytest.mark.parametrize("content", [b"", b"caf\xe9"])
def test_data_that_is_no_text(content, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match="--data"):
        train.read_documents(str(tmp_path / "a.txt"))
    with pytest.raises(ValueError, match="--data"):
        train.read_documents(str(tmp_path))


@pytest.mark.parametrize("n", [2, 10, 95])
def test_split_by_document(n):
    documents = [str(i) for i in range(n)]
    kept, held_out = train.split(documents, np.random.default_rng(0))
    assert sorted(kept + held_out) == sorted(documents)
    assert len(held_out) == max(1, n // 10)
    assert train.split(documents, np.random.default_rng(1))[1] != held_out or n == 2


def test_a_single_document_is_cut():
    assert train.split(["0123456789" * 10], np.random.default_rng(0)) == (
        ["0123456789" * 9],
        ["0123456789"],
    )


def test_learned_merges_are_the_most_frequent_pairs():
    encoder = train.learn_bpe(["ababab abab", "cd ab"], 3)
    tokens = [encoder.decoder[i] for i in range(256, 260)]
    # "ab" 6 times; then "abab" 3 (once in "ababab": its pairs overlap; twice counting " abab")
    assert tokens[0] == "ab" and tokens[-1] == "<|endoftext|>"
    assert encoder.decode(encoder.encode("ababab é\n")) == "ababab é\n"
    assert len(encoder.encode("ababab")) < 6


def test_learned_merges_equal_those_of_a_recount_after_each_merge():
    texts = train.read_documents()[:60]
    encoder = train.learn_bpe(texts, 40)
    words = {}
    byte_level = train.learn_bpe(texts, 0)
    for text in texts:
        for piece in regex.findall(train.SPLIT, text):
            word = tuple(byte_level.decoder[i] for i in byte_level.encode(piece))
            words[word] = words.get(word, 0) + 1
    for merge in encoder.bpe_ranks:
        counts = {}
        for word, n in words.items():
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + n
        assert counts[merge] == max(counts.values())
        joined = {}
        for word, n in words.items():
            new, rest = [], list(word)
            while rest:
                symbol = rest.pop(0)
                if rest and (symbol, rest[0]) == merge:
                    symbol += rest.pop(0)
                new.append(symbol)
            joined[tuple(new)] = joined.get(tuple(new), 0) + n
        words = joined


def test_no_merges_make_a_character_level_tokenizer():
    encoder = train.learn_bpe(["abc"], 0)
    assert len(encoder.encoder) == 257 and len(encoder.encode("def é")) == 6


def test_documents_are_closed_by_the_end_mark():
    encoder = train.learn_bpe(["ab"], 0)
    ids = train.token_ids(["ab", "c"], encoder)
    assert ids.tolist() == [*encoder.encode("ab"), 256, *encoder.encode("c"), 256]


def test_targets_are_the_inputs_one_later():
    inputs, targets = train.windows(np.arange(20), [0, 7], 4)
    assert inputs.tolist() == [[0, 1, 2, 3], [7, 8, 9, 10]]
    assert targets.tolist() == [[1, 2, 3, 4], [8, 9, 10, 11]]


# ---------------------------------------------------------------- the command

SIZES = [
    "--n_layer",
    "1",
    "--n_head",
    "2",
    "--n_embd",
    "16",
    "--n_ctx",
    "16",
    "--batch_size",
    "4",
    "--tokenizer",
    "bpe:20",
]


def run_train(*arguments, code=0):
    script = Path(train.__file__)
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture(scope="module")
def many_functions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    text = "\n".join(f"def f{i}(x):\n    return x + {i}\n" for i in range(60))
    (folder / "many.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(many_functions, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "small"
    log = run_train(
        f"--data={many_functions}", f"--out={out}", *SIZES, "--steps=60", "--eval_every=20"
    )
    return out, log


def test_the_loss_falls(trained):
    with open(trained[0] / "log.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [20, 40, 60]
    assert [int(row["tokens"]) for row in rows] == [20 * 64, 40 * 64, 60 * 64]
    assert float(rows[0]["held_out_loss"]) > float(rows[-1]["held_out_loss"])
    assert float(rows[0]["loss"]) > float(rows[-1]["loss"])
    for row in rows:
        assert f"held-out {float(row['held_out_loss']):.4f}" in trained[1]


def test_the_curves_are_drawn(trained):
    root = ElementTree.parse(trained[0] / "loss.svg").getroot()
    lines = root.findall("{*}polyline")
    assert len(lines) == 2
    for line in lines:
        points = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        xs, ys = zip(*points, strict=True)
        assert len(points) == 3 and list(xs) == sorted(xs)
        assert list(ys) == sorted(ys) and min(ys) > 0 and max(ys) < 360  # down is larger


def test_the_folder_runs_in_gpt2_and_in_transformers(trained):
    out, _ = trained
    encoder, hparams, params = load_encoder_hparams_and_params(out.name, str(out.parent))
    assert hparams["n_ctx"] == 16 and hparams["n_vocab"] == len(encoder.encoder) <= 277
    ids = encoder.encode("def f1(x):\n")[:16]
    logits = gpt2.gpt2(ids, **params, n_head=2)
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
        ["--minutes=-1"],
        ["--minutes=0"],
        ["--grad_clip=0"],
        ["--init_from=no_such_folder"],
        ["--out=/dev/null/x"],
        ["--n_ctx=100000"],
        ["--data=no_such_folder"],
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
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    run_train(f"--data={many_functions}", f"--out={out}", *SIZES, code=1)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_loss_that_is_no_number_ends_the_run(many_functions, tmp_path):
    arguments = ["--steps=60", "--eval_every=1", "--learning_rate=1e30"]
    error = run_train(
        f"--data={many_functions}", f"--out={tmp_path / 'out'}", *SIZES, *arguments, code=1
    )
    assert "Traceback" not in error and "--learning_rate" in error.split("\n")[-2]


def test_what_is_broken_is_not_saved(trained, tmp_path, monkeypatch):
    shutil.copytree(trained[0], tmp_path / "out")
    with np.load(trained[0] / "training_state.npz") as arrays:
        options = json.loads(str(arrays["run"]))["options"]
    options |= {"out": str(tmp_path / "out"), "resume": True, "steps": 100, "eval_every": 1}
    training = train.Training(**options)
    before = {path.name: path.read_bytes() for path in training.out.iterdir()}
    training.params["wte"][:] = np.nan
    with pytest.raises(ValueError, match="step 60 is kept"):
        training.run()
    with pytest.raises(ValueError, match="step 60 is kept"):
        training.evaluate(1.0)
    assert {path.name: path.read_bytes() for path in training.out.iterdir()} == before


def test_fine_tuning_starts_from_the_model_and_keeps_its_vocabulary(
    trained, many_functions, tmp_path
):
    out = tmp_path / "tuned"
    arguments = ["--steps=5", "--eval_every=1", "--n_ctx=8", "--batch_size=4"]
    run_train(f"--data={many_functions}", f"--out={out}", f"--init_from={trained[0]}", *arguments)
    with open(out / "log.csv", encoding="utf-8", newline="") as file:
        first = float(next(csv.DictReader(file))["held_out_loss"])
    assert first < 5  # log(277) = 5.6 is where a new model starts
    assert (out / "vocab.json").read_bytes() == (trained[0] / "vocab.json").read_bytes()
    _, hparams, _ = load_encoder_hparams_and_params(out.name, str(out.parent))
    assert hparams["n_ctx"] == 16


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
    run_train(f"--data={many_functions}", f"--out={out}", *SIZES, "--minutes=0.02")
    with open(out / "log.csv", encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert int(last["step"]) > 3 and float(last["minutes"]) >= 0.02


def test_half_stores_float16(many_functions, tmp_path):
    out = tmp_path / "half"
    run_train(f"--data={many_functions}", f"--out={out}", *SIZES, "--steps=2", "--half")
    stored = (out / "model.safetensors").read_bytes()
    header = json.loads(stored[8 : 8 + int.from_bytes(stored[:8], "little")])
    assert {t["dtype"] for name, t in header.items() if name != "__metadata__"} == {"F16"}
