r"""Byte-level BPE, GPT-2's tokenizer: text to token ids and back.

A text is split into pieces (words, numbers, punctuation, white space). The UTF-8 bytes of a
piece are its first symbols; then, of all pairs of neighbours, the one that was learned first
is merged into one symbol, again and again, until no known pair is left. Each symbol is a token.
Sources: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section
2.2 (bytes, pieces); Sennrich, Haddow and Birch 2016, "Neural Machine Translation of Rare Words
with Subword Units" (merges).

Left out: learning merges, and special tokens in text. "<|endoftext|>" in a text is thirteen
characters like any others; `Encoder.eot` is the id, to be put in by hand.

What is a letter, a number or white space is Unicode's word, and new characters come each year.
`regex`, tiktoken and tokenizers each carry tables of their own, which need not be as new as
each other or as Python's `unicodedata`: for characters newer than any one of these, the ids
may differ from another tokenizer's. They decode to the same text all the same.
"""

import codecs
import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise
from operator import index

ENDOFTEXT = "<|endoftext|>"
LAYOUTS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))  # OpenAI, Hugging Face
SPLIT = r"'(?:s|t|re|ve|m|ll|d)| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# In the files each byte is written as one visible character: as itself where Latin-1 shows
# something, else as the next character from U+0100 on. GPT-2's ids 0 to 255 follow this order.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
_SYMBOL = {b: chr(b) for b in _VISIBLE} | {b: chr(256 + i) for i, b in enumerate(_HIDDEN)}
_BYTE = {symbol: bytes([byte]) for byte, symbol in _SYMBOL.items()}


def byte_level_vocab() -> dict[str, int]:
    """The 256 bytes in GPT-2's order, and `<|endoftext|>` = 256: a vocabulary without merges.

    >>> Encoder(byte_level_vocab(), []).encode("Aé")
    [32, 127, 102]
    """
    return {symbol: i for i, symbol in enumerate([*_SYMBOL.values(), ENDOFTEXT])}


def get_encoder(model_name: str, models_dir: str) -> "Encoder":
    """Read the tokenizer of the folder `models_dir/model_name`, in either of the `LAYOUTS`.

    Raises FileNotFoundError if there is none, ValueError if its files make no sense.
    """
    folder = os.path.join(models_dir, model_name)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    for layout in LAYOUTS:
        if set(layout) <= set(names):
            vocab_path, merges_path = (os.path.join(folder, name) for name in layout)
            encoder = _read(vocab_path, _parse_vocab)
            return _read(merges_path, lambda text: Encoder(encoder, _parse_merges(text)))
    need = " or ".join(" and ".join(layout) for layout in LAYOUTS)
    found = ", ".join(name for name in chain(*LAYOUTS) if name in names) or "none of them"
    raise FileNotFoundError(f"{folder} holds no tokenizer: need {need}, found {found}")


def _read(path: str, parse: Callable):
    """`parse` of the text in the file; its ValueError is passed on with the file's name."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse(file.read())
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are among these
        raise ValueError(f"{path}: {error}") from error


def _parse_vocab(text: str) -> dict[str, int]:
    encoder = json.loads(text)
    if not isinstance(encoder, dict) or not set(map(type, encoder.values())) <= {int}:
        raise ValueError("not one JSON object from tokens to integer ids")
    return encoder


def _parse_merges(text: str) -> list[str]:
    lines = text.split("\n")  # not splitlines: U+0085 is a symbol, and it would split there too
    return [line for line in lines[lines[0].startswith("#version") :] if line]


@functools.cache
def _splitter(is_ascii: bool) -> Callable[[str], list[str]]:
    r"""The function that splits a text into pieces.

    In ASCII \p{L} is A-Z and a-z, and \p{N} is 0-9. So the standard library's `re`, which
    has no \p{...}, can split ASCII text: in half the time, and `regex` need not be imported.
    """
    if is_ascii:
        ascii_split = SPLIT.replace(r"\p{L}", "A-Za-z").replace(r"\p{N}", "0-9")
        return re.compile(ascii_split, re.ASCII).findall
    import regex

    return regex.compile(SPLIT).findall


class _Words(dict):
    """Piece -> ids, worked out when first asked for. Emptied when full, long pieces not kept:
    typical text fills it to about 15 MB."""

    def __init__(self, encode_piece: Callable[[str], tuple[int, ...]]):
        self.encode_piece = encode_piece

    def __missing__(self, piece: str) -> tuple[int, ...]:
        ids = self.encode_piece(piece)
        if len(piece) <= 64:
            if len(self) >= 2**16:
                self.clear()
            self[piece] = ids
        return ids


class Encoder:
    """A byte-level BPE tokenizer, given its vocabulary and its merges in the order learned.

    encoder: token -> id, tokens written in the visible characters of the vocabulary files.
    merges: "left right" each. None at all makes a tokenizer of single bytes.
    Raises ValueError for a merge of another form, and for two tokens with one id.

    >>> tokens = Encoder({**byte_level_vocab(), "he": 257, "hel": 258}, ["h e", "he l"])
    >>> tokens.encode("hello he")
    [258, 75, 78, 220, 257]
    >>> tokens.decode([258, 75, 78])
    'hello'
    """

    def __init__(self, encoder: dict[str, int], merges: Iterable[str]):
        self.encoder = encoder
        self.decoder = {i: token for token, i in encoder.items()}
        self.eot = encoder.get(ENDOFTEXT)
        # One string for a pair: no symbol holds a space, and pairs of strings load slower.
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}
        self._words = _Words(self._encode_piece)
        for merge in self._ranks:
            if merge.count(" ") != 1:
                raise ValueError(f"a merge is two symbols with a space between, not {merge!r}")
        if len(self.decoder) < len(encoder):
            raise ValueError("two tokens of the vocabulary have the same id")

    @property
    def bpe_ranks(self) -> dict[tuple[str, str], int]:
        """(left, right) -> rank, for every merge, first learned first."""
        return {tuple(merge.split(" ")): rank for merge, rank in self._ranks.items()}

    def encode(self, text: str) -> list[int]:
        """Token ids of any text; never the id of `<|endoftext|>`.

        UTF-8 has no surrogates: a pair of them becomes the character it stands for, one alone
        becomes U+FFFD, as in tiktoken. Every other string decodes to itself.
        Raises TypeError for what is not a str, ValueError if the vocabulary lacks a symbol.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode takes a str, not {type(text).__name__}")
        if not text.isascii():
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        pieces = _splitter(text.isascii())(text)
        return list(chain.from_iterable(map(self._words.__getitem__, pieces)))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids; bytes that are no UTF-8 become U+FFFD.

        Raises ValueError for ids outside the vocabulary, TypeError for what is no integer.
        """
        return self._bytes(ids).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of `ids` as they come, as soon as characters are whole.

        An id that completes no character yields nothing. Joined, it is `decode(ids)`.

        >>> list(Encoder(byte_level_vocab(), []).decode_stream([32, 127, 102, 127]))
        ['A', 'é', '�']
        """
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for i in ids:
            if text := utf8.decode(self._bytes([i])):
                yield text
        if text := utf8.decode(b"", final=True):
            yield text

    def _bytes(self, ids: Iterable[int]) -> bytes:
        ids = [index(i) for i in ids]  # plain int from NumPy's too
        unknown = [i for i in ids if i not in self.decoder]
        if unknown:
            more = ", ..." if len(unknown) > 5 else ""
            raise ValueError(f"not in the vocabulary: ids {str(unknown[:5])[1:-1]}{more}")
        symbols = "".join([self.decoder[i] for i in ids])
        # A token added by hand may hold characters that stand for no byte: they are text.
        return b"".join([_BYTE.get(s) or s.encode("utf-8", "replace") for s in symbols])

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        symbols = self._merge([_SYMBOL[byte] for byte in piece.encode()])
        try:
            return tuple([self.encoder[symbol] for symbol in symbols])
        except KeyError as error:
            raise ValueError(f"the vocabulary lacks {error}, needed for {piece[:40]!r}") from None

    def _merge(self, symbols: list[str]) -> list[str]:
        """Merge the pair of lowest rank, the leftmost of equals, until there is none.

        The pairs wait in a heap, so n symbols take O(n log n) steps. The symbols form a linked
        list: a merge grows the left one and drops the right one.
        """
        n = len(symbols)
        rank_of = self._ranks.get
        ranks = [rank_of(f"{a} {b}", -1) for a, b in pairwise(symbols)]  # of the pair from i on
        heap = [rank * n + i for i, rank in enumerate(ranks) if rank >= 0]  # one int, no tuple
        heapify(heap)
        # A space at the end, seen from both ends, is a neighbour that pairs with nothing.
        symbols, ranks = [*symbols, " "], [*ranks, -1, -1]
        before, after = [*range(-1, n)], [*range(1, n + 1), n]
        while heap:
            rank, i = divmod(heappop(heap), n)
            if ranks[i] != rank:
                continue  # a merge since then has changed this pair
            gone, left = after[i], before[i]
            right = after[i] = after[gone]
            before[right] = i
            symbols[i] += symbols[gone]
            symbols[gone], ranks[gone] = "", -1
            for j, k in ((left, i), (i, right)):
                rank = ranks[j] = rank_of(f"{symbols[j]} {symbols[k]}", -1)
                if rank >= 0:
                    heappush(heap, rank * n + j)
        return [symbol for symbol in symbols[:n] if symbol]
