"""training/unlikelihood.py: which tokens are repeats, the loss, and what training with it does."""

import numpy as np
import pytest

from gpt2 import generate, gpt2, softmax
from tests.fixtures.random_models import TINY, random_params
from training.options import Options
from training.run import Run
from training.tokenizer import make_encoder
from training.unlikelihood import repeats, unlikelihood_loss_and_grads
from utils import load_encoder_hparams_and_params, named

PROMPT = "def f(self):"


@pytest.fixture(scope="module")
def encoder():
    return make_encoder("char", [])


def marked(encoder, new, prompt=PROMPT, ended=True):
    """The repeated lines of the text, as strings, by repeats."""
    prompt_ids, new_ids = encoder.encode(prompt), encoder.encode(new)
    numbers = repeats(prompt_ids, new_ids, ended, encoder)
    assert len(numbers) == len(prompt_ids) + len(new_ids)
    ids = np.array(prompt_ids + new_ids)
    return [encoder.decode(ids[numbers == number]) for number in np.unique(numbers) if number]


def test_a_line_that_was_there_before_is_repeated(encoder):
    assert marked(encoder, "\n    a = 1\n    b = 1\n    a = 1\n    a = 1\n    c") == [
        "\n    a = 1",
        "\n    a = 1",
    ]


def test_a_line_with_another_indent_is_another_line(encoder):
    assert marked(encoder, "\n ab\n  ab\n ") == []


def test_empty_lines_are_not_repeated(encoder):
    assert marked(encoder, "\n    a\n\n\n    b\n\n    a\n    ") == ["\n    a"]


def test_the_last_line_counts_only_in_a_text_that_ended(encoder):
    assert marked(encoder, "\n    a\n    a", ended=True) == ["\n    a"]
    assert marked(encoder, "\n    a\n    a", ended=False) == []


def test_lines_of_the_prompt_are_not_the_models(encoder):
    assert marked(encoder, "\na\n", prompt="x\na\na") == ["\na"]


def test_a_run_of_tokens_within_a_line_is_a_repeat(encoder):
    assert marked(encoder, "\n    # abcdefghijabcdefghij kl", ended=False) == ["abcdefgh"]
    assert marked(encoder, "\n    # abcdefgabcdefg", ended=False) == []


# ---------------------------------------------------------------- the loss

TEXTS = [[3, 1, 4, 1, 5, 9], [2, 6, 5, 3], [8, 9, 7, 9, 3, 2]]
LINES = [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0], [0, 1, 1, 0, 0, 3]]


def reference_loss(params, n_head):
    """By the model itself, one text at a time."""
    loss = 0
    for ids, numbers in zip(TEXTS, np.array(LINES, dtype=object), strict=True):
        p = softmax(gpt2(ids[:-1], **params, n_head=n_head))  # [n_seq - 1, n_vocab]
        p_tokens = {i: p[i - 1, ids[i]] for i in range(1, len(ids))}
        for number in set(numbers) - {0}:
            p_line = np.prod([p_tokens[i] for i in range(1, len(ids)) if numbers[i] == number])
            loss -= np.log(1 - p_line)
    return loss / len(TEXTS)


def test_the_loss_is_that_of_the_probabilities_of_the_lines():
    params = random_params(TINY, seed=0, dtype=np.float64)
    loss, _ = unlikelihood_loss_and_grads(params, TINY["n_head"], TEXTS, LINES)
    assert loss == pytest.approx(reference_loss(params, TINY["n_head"]), rel=1e-9)


def test_gradients_agree_with_differences():
    params = random_params(TINY, seed=0, dtype=np.float64)
    _, grads = unlikelihood_loss_and_grads(params, TINY["n_head"], TEXTS, LINES)
    rng, step = np.random.default_rng(0), 1e-5
    for name, p in named(params).items():
        direction = rng.standard_normal(p.shape)
        p += step * direction
        above = reference_loss(params, TINY["n_head"])
        p -= 2 * step * direction
        below = reference_loss(params, TINY["n_head"])
        p += step * direction
        expected = (above - below) / (2 * step)
        assert np.sum(named(grads)[name] * direction) == pytest.approx(expected, 1e-4, 1e-9), name


def test_texts_without_repeats_have_no_loss():
    params = random_params(TINY, seed=0)
    nothing = [[0] * len(text) for text in TEXTS]
    loss, grads = unlikelihood_loss_and_grads(params, TINY["n_head"], TEXTS, nothing)
    assert loss == 0 and not any(np.any(grad) for grad in named(grads).values())


def test_texts_that_end_at_once_have_no_loss():
    params = random_params(TINY, seed=0)
    loss, _ = unlikelihood_loss_and_grads(params, TINY["n_head"], [[3], [4]], [[0], [0]])
    assert loss == 0


# ---------------------------------------------------------------- training


def n_repeated(model_dir):
    """Repeated lines in a greedy text of a model."""
    encoder, hparams, params = load_encoder_hparams_and_params(model_dir.name, model_dir.parent)
    prompt = encoder.encode("def f0(x):")
    text = encoder.decode(generate(prompt, params, hparams["n_head"], 64, stop_id=encoder.eot))
    lines = [line for line in text.split("\n")[:-1] if line.strip()]
    return len(lines) - len(set(lines))


def test_a_model_that_repeats_lines_unlearns_it(tmp_path):
    function = "def f{0}(x):\n    x = x + 1\n    x = x + 1\n    x = x + 1\n    return x\n\n\n"
    data = tmp_path / "loops.py"
    data.write_text("".join(function.format(i) for i in range(60)), encoding="utf-8")
    folders = tmp_path / "loops", tmp_path / "none"
    for folder, unlikelihood in zip(folders, (0.0, 30.0), strict=True):
        folder.mkdir()
        options = Options(
            data=str(data),
            out=str(folder),
            tokenizer="bpe:40",
            n_layer=1,
            n_head=2,
            n_embd=32,
            n_ctx=128,
            batch_size=4,
            steps=200,
            eval_every=200,
            unlikelihood=unlikelihood,
        )
        Run(options).train()
    assert n_repeated(folders[1]) < n_repeated(folders[0]) / 2
