"""OpenAI's own 124M weights, where they are on disk: published ids, logits, texts and weights."""

import os
from pathlib import Path

import numpy as np
import pytest

import gpt2
from utils import load_encoder_hparams_and_params

MODELS_DIR = Path(gpt2.__file__).parent / "models"
WEIGHTS = ("model.safetensors", "model.ckpt.data-00000-of-00001")

pytestmark = pytest.mark.skipif(
    not any((MODELS_DIR / "124M" / file).exists() for file in WEIGHTS),
    reason="needs OpenAI's 124M weights in models/124M: python gpt2.py --model_size 124M ''",
)

GREEDY = [  # inputs, continuation, where it was published
    (
        [464, 3290],
        "373 1043 287 257 2214 1474 262 16246 286 2688 290 2688 27262 13 198 198 464 3290",
        "huggingface/transformers tests/models/gpt2/test_modeling_gpt2.py",
    ),
    (
        "Alan Turing theorized that computers would one day become very powerful, but even he "
        "could not imagine",
        "703 484 561 307 1498 284 466 523 13 198 198 1 40 892 326 262 749 1593 1517 318",
        "certik/fastGPT tests",
    ),
    ([15017, 6033, 318], "257 1748 286 517 621 352 1510 661", "certik/fastGPT tests"),
]


@pytest.fixture(scope="module")
def model():
    return load_encoder_hparams_and_params("124M", os.fspath(MODELS_DIR))


@pytest.mark.parametrize(("inputs", "continuation", "source"), GREEDY)
def test_greedy_ids(model, inputs, continuation, source):
    encoder, hparams, params = model
    ids = encoder.encode(inputs) if isinstance(inputs, str) else inputs
    expected = [int(i) for i in continuation.split()]
    assert gpt2.generate(ids, params, hparams["n_head"], len(expected)) == expected, source


def test_the_text_of_the_public_tutorial(model):
    # jaymody/picoGPT README
    encoder, hparams, params = model
    ids = encoder.encode("Alan Turing theorized that computers would one day become")
    assert encoder.decode(gpt2.generate(ids, params, hparams["n_head"], 40)) == (
        " the most powerful machines on the planet.\n\nThe computer is a machine that can perform "
        "complex calculations, and it can perform these calculations in a way that is very "
        "similar to the human brain."
    )


def test_the_best_token_and_its_logit(model):
    encoder, hparams, params = model  # guillaume-be/rust-bert tests/gpt2.rs
    ids = encoder.encode("One two three four")
    logits = gpt2.gpt2(ids, **params, n_head=hparams["n_head"])[-1]
    assert np.argmax(logits) == 1936
    assert abs(logits[1936] - -69.4948) <= 0.001


def test_logits(model):
    _, hparams, params = model  # mlverse/minhub test-gpt2.R
    logits = gpt2.gpt2([15496, 995, 220], **params, n_head=hparams["n_head"])[-1]
    expected = [-53.2292, -55.5639, -58.5087, -57.6649, -59.0031]
    np.testing.assert_allclose(logits[:5], expected, rtol=0, atol=0.001)


def test_weights(model):
    _, hparams, params = model  # Narsil/fast_gpt2
    assert hparams == {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
    np.testing.assert_allclose(
        params["wte"][0, :5], [-0.1101, -0.0393, 0.0331, 0.1338, -0.0485], atol=6e-5
    )
    np.testing.assert_allclose(
        params["ln_f"]["g"][:5], [1.3971, 1.3750, 1.8870, 1.1688, 1.2724], atol=6e-5
    )
