"""training/tokenizer.py: the tokenizer that is named, and learned merges."""

from collections import Counter
from itertools import pairwise

import pytest
import regex

from encoder import SPLIT
from training.data import read_documents
from training.tokenizer import learn_bpe, make_encoder

N_BYTES = 256  # the first ids of a byte-level vocabulary; <|endoftext|> is the last


def test_learned_merges_are_the_most_frequent_pairs():
    encoder = learn_bpe(["ababab abab", "cd ab"], 3)
    # "ab" occurs 6 times, " a" only twice, "c" and "d" once.
    assert encoder.decoder[N_BYTES] == "ab"
    assert encoder.decoder[N_BYTES + 3] == "<|endoftext|>" and len(encoder.decoder) == N_BYTES + 4
    assert encoder.decode(encoder.encode("ababab é\n")) == "ababab é\n"
    assert len(encoder.encode("ababab")) < 6


def merged_by_hand(symbols, pair):
    """Another way to write `merge_pair`."""
    merged, rest = [], list(symbols)
    while rest:
        symbol = rest.pop(0)
        if rest and (symbol, rest[0]) == pair:
            symbol += rest.pop(0)
        merged.append(symbol)
    return merged


def test_learned_merges_equal_those_of_a_recount_after_each_merge():
    texts, n_merges = read_documents()[:60], 40
    encoder, byte_level = learn_bpe(texts, n_merges), learn_bpe([], 0)
    pieces = [piece for text in texts for piece in regex.findall(SPLIT, text)]
    words = [[byte_level.decoder[i] for i in byte_level.encode(piece)] for piece in pieces]
    assert len(encoder.bpe_ranks) == n_merges
    for merge in encoder.bpe_ranks:
        counts = Counter(pair for word in words for pair in pairwise(word))
        assert counts[merge] == max(counts.values())
        words = [merged_by_hand(word, merge) for word in words]


def test_fewer_merges_are_learned_where_no_pair_is_left():
    encoder = learn_bpe(["abc"], 100)
    assert len(encoder.bpe_ranks) == 2 and len(encoder.encode("abc")) == 1


def test_no_merges_make_a_character_level_tokenizer():
    encoder = learn_bpe(["abc"], 0)
    assert len(encoder.encoder) == N_BYTES + 1 and len(encoder.encode("def é")) == 6


@pytest.mark.parametrize(("tokenizer", "n_merges"), [("char", 0), ("bpe:0", 0), ("bpe:5", 5)])
def test_the_tokenizer_is_picked_by_its_name(tokenizer, n_merges):
    assert len(make_encoder(tokenizer, ["def f(): return f()"]).bpe_ranks) == n_merges
