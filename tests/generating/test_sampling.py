"""Choosing one id from logits."""

import numpy as np
import pytest

from generating.sampling import Sampling, sample


def draws(logits, n=4000, **options):
    rng = np.random.default_rng(0)
    ids = [sample(np.asarray(logits, np.float32), rng=rng, **options) for _ in range(n)]
    return np.bincount(ids, minlength=len(logits)) / n


LOGITS = np.log([0.1, 0.4, 0.2, 0.3])


def test_temperature_0_is_argmax_and_needs_no_generator():
    assert sample(LOGITS) == 1
    assert sample(np.array([2.0, 5.0, 5.0])) == 1


def test_temperature_1_draws_from_the_softmax():
    np.testing.assert_allclose(draws(LOGITS, temperature=1), [0.1, 0.4, 0.2, 0.3], atol=0.03)


def test_temperature_divides_the_logits():
    p = np.array([0.1, 0.4, 0.2, 0.3]) ** 2
    np.testing.assert_allclose(draws(LOGITS, temperature=0.5), p / p.sum(), atol=0.03)
    assert draws(LOGITS, n=50, temperature=1e-30).tolist() == [0, 1, 0, 0]


def test_top_k_keeps_the_best_and_is_clamped_to_the_vocabulary():
    p = draws(LOGITS, temperature=1, top_k=2)
    np.testing.assert_allclose(p, [0, 4 / 7, 0, 3 / 7], atol=0.03)
    np.testing.assert_allclose(draws(LOGITS, temperature=1, top_k=99), np.exp(LOGITS), atol=0.03)
    assert draws(LOGITS, n=50, temperature=1, top_k=1).tolist() == [0, 1, 0, 0]


def test_top_p_keeps_the_token_that_crosses_it():
    p = draws(LOGITS, temperature=1, top_p=0.8)
    np.testing.assert_allclose(p, [0, 4 / 9, 2 / 9, 3 / 9], atol=0.03)
    assert draws(LOGITS, n=50, temperature=1, top_p=0.3).tolist() == [0, 1, 0, 0]
    assert draws(LOGITS, n=50, temperature=1, top_p=0).tolist() == [0, 1, 0, 0]


def test_a_token_without_probability_is_never_drawn():
    class AlmostOne:
        def random(self):
            return float(np.nextafter(1.0, 0))

    class Zero:
        def random(self):
            return 0.0

    logits = np.array([-1000.0, 0.0, -1000.0, 0.0], np.float32)
    for rng in (AlmostOne(), Zero()):
        assert sample(logits, temperature=1, rng=rng) in (1, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": True},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_p": 1.1},
        {"top_p": "most"},
        {"seed": -1},
        {"seed": 0.5},
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"--{name} {value}"):
        Sampling(**wrong)


def test_numbers_of_numpy_are_numbers():
    Sampling(np.float32(0.5), np.int64(3), np.float64(0.5), np.int32(7))


def test_text_i_draws_with_the_seed_plus_i():
    sampling = Sampling(seed=5)
    assert sampling.rng(2).random() == np.random.default_rng(7).random()
    assert Sampling().rng().random() != Sampling().rng().random()


def test_candidates_are_what_can_be_drawn():
    sampling = Sampling(temperature=0.7, top_k=3, top_p=0.9)
    logits = np.random.default_rng(1).normal(size=20).astype(np.float32)
    ids, p = sampling.candidates(logits)
    assert p.dtype == np.float32 and list(p) == sorted(p, reverse=True)
    rng = np.random.default_rng(2)
    drawn = (
        np.bincount([sampling.sample(logits, rng) for _ in range(20_000)], minlength=20) / 20_000
    )
    np.testing.assert_allclose(drawn[ids], p / p.sum(), atol=0.02)
    assert drawn.sum() == pytest.approx(drawn[ids].sum())
