r"""Byte-level BPE, GPT-2's tokenizer: text to token ids and back.

A text is split into pieces (words, numbers, punctuation, white space). The UTF-8 bytes of a piece
are its first symbols; then, of all pairs of neighbours, the one that was learned first is merged
into one symbol, again and again; the symbols that are left are the tokens. Sources: Radford et al.
2019, "Language Models are Unsupervised Multitask Learners", section 2.2; Sennrich et al. 2016,
"Neural Machine Translation of Rare Words with Subword Units". Left out: learning merges, and
special tokens within a text.

What is a letter, a number or white space Unicode says, and adds characters every year: with those
newer than the tables of `regex`, tiktoken, tokenizers or `unicodedata`, these may give other ids
than one another. They decode to the same text all the same.
"""

import codecs
import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import chain, pairwise
from math import inf
from operator import index

ENDOFTEXT = "<|endoftext|>"
LAYOUTS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))  # OpenAI, Hugging Face
SPLIT = r"'(?:s|t|re|ve|m|ll|d)| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# A piece always ends where white space follows a visible ASCII character. Text is cut into blocks
# at such places, so that one é makes only its own block slow to split.
BLOCK = re.compile(r".{200,}?[!-~](?=[ \n])|.+", re.DOTALL)

# In the files each byte is written as one visible character: as itself where Latin-1 shows
# something, else as the next character from U+0100 on. GPT-2's ids 0 to 255 follow this order.
_SYMBOL = {b: chr(b) for b in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]}
_SYMBOL |= {b: chr(256 + i) for i, b in enumerate(sorted({*range(256)} - {*_SYMBOL}))}
_BYTE = {symbol: bytes([byte]) for byte, symbol in _SYMBOL.items()}


def byte_level_vocab() -> dict[str, int]:
    """The 256 bytes in GPT-2's order, and `<|endoftext|>` = 256: a vocabulary without merges.

    >>> Encoder(byte_level_vocab(), []).encode("Aé")
    [32, 127, 102]
    """
    return {symbol: i for i, symbol in enumerate([*_SYMBOL.values(), ENDOFTEXT])}


def get_encoder(model_name: str, models_dir: str) -> "Encoder":
    """Read the tokenizer of the folder `models_dir/model_name`, in either of the `LAYOUTS`.

    Raises FileNotFoundError if there is none, ValueError if a file makes no sense.
    """
    folder = os.path.join(models_dir, model_name)
    found = [name for name in chain(*LAYOUTS) if os.path.isfile(os.path.join(folder, name))]
    layout = next((names for names in LAYOUTS if set(names) <= set(found)), None)
    if layout is None:
        need = " or ".join(map(" and ".join, LAYOUTS))
        raise FileNotFoundError(f"no tokenizer in {folder}: need {need}; found {found}")
    vocab_path, merges_path = (os.path.join(folder, name) for name in layout)
    encoder = _read(vocab_path, _parse_vocab)
    return _read(merges_path, lambda text: Encoder(encoder, _parse_merges(text)))


def _read(path: str, parse: Callable):
    """`parse` of the text of a file. A ValueError is passed on with the file's name."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse(file.read())
    except ValueError as error:  # the errors of JSON and of UTF-8 are ValueErrors too
        raise ValueError(f"{path}: {error}") from error


def _parse_vocab(text: str) -> dict[str, int]:
    encoder = json.loads(text)
    if not isinstance(encoder, dict) or {*map(type, encoder.values())} != {int}:
        raise ValueError("not a JSON object of tokens and integer ids")
    return encoder


def _parse_merges(text: str) -> list[str]:
    lines = text.split("\n")  # not at the other line ends of str.splitlines
    return [line for line in lines[lines[0].startswith("#version") :] if line]


@functools.cache
def _splitter(is_ascii: bool) -> Callable[[str], list[str]]:
    """The function that splits a text into its pieces."""
    if is_ascii:  # `re` has no \p{...} but is twice as fast, and spares the import of `regex`
        ascii_split = SPLIT.replace(r"\p{L}", "A-Za-z").replace(r"\p{N}", "0-9")
        return re.compile(ascii_split, re.ASCII).findall
    import regex

    return regex.compile(SPLIT).findall


class Encoder:
    """A byte-level BPE tokenizer, made of a vocabulary and its merges, first learned first.

    encoder: token -> id, in the visible characters of the vocabulary files.
    merges: "left right" each (ValueError for other forms); none makes a tokenizer of bytes.

    >>> tokens = Encoder({**byte_level_vocab(), "he": 257, "hel": 258}, ["h e", "he l"])
    >>> tokens.encode("hello he")
    [258, 75, 78, 220, 257]
    >>> list(tokens.decode_stream([258, 127, 102, 127]))  # 127 is the first byte of "é"
    ['hel', 'é', '�']
    """

    def __init__(self, encoder: dict[str, int], merges: Iterable[str]):
        self.encoder = encoder
        self.decoder = {i: token for token, i in encoder.items()}
        self.eot = encoder.get(ENDOFTEXT)
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}  # tuples load slower
        self._words = {}  # piece -> its ids
        for merge in self._ranks:
            if merge.count(" ") != 1:
                raise ValueError(f"a merge is two symbols with a space between, not {merge!r}")

    @property
    def bpe_ranks(self) -> dict[tuple[str, str], int]:
        """(left, right) -> rank of every merge, first learned first."""
        return {tuple(merge.split(" ")): rank for merge, rank in self._ranks.items()}

    def encode(self, text: str) -> list[int]:
        """The ids of any text. `<|endoftext|>` in it is text: for its id take `self.eot`.

        UTF-8 has no surrogates: a pair becomes the character it stands for, a lone one U+FFFD,
        as in tiktoken. Every other text comes back from `decode` as it was.
        Raises TypeError for anything but a str, ValueError if the vocabulary lacks a symbol.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode takes a str, not {type(text).__name__}")
        if not text.isascii():
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        known, ids = self._words.get, []
        for block in BLOCK.findall(text):
            for piece in _splitter(block.isascii())(block):
                ids += known(piece) or self._encode_piece(piece)
        return ids

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        symbols = self._merge([_SYMBOL[byte] for byte in piece.encode()])
        try:
            ids = tuple([self.encoder[symbol] for symbol in symbols])
        except KeyError as error:
            raise ValueError(f"no token {error} in the vocabulary, for {piece[:40]!r}") from None
        if len(piece) <= 64 and len(self._words) < 2**16:  # some 15 MB of everyday words
            self._words[piece] = ids
        return ids

    def _merge(self, symbols: list[str]) -> list[str]:
        """Merge the pair of lowest rank, the leftmost among equals, until no pair has a rank.

        Of many symbols the pairs wait in a heap, linked both ways: O(n log n) steps for n symbols.
        """
        n, rank_of = len(symbols), self._ranks.get
        symbols = [*symbols, " "]  # in no merge; the neighbour of both ends: -1 is the end, too
        ranks = [rank_of(f"{a} {b}", inf) for a, b in pairwise(symbols)]  # of the pair from i on
        while n < 50 and (rank := min(ranks)) < inf:
            i = ranks.index(rank)
            symbols[i] += symbols.pop(i + 1)
            del ranks[i]
            ranks[i - 1] = rank_of(f"{symbols[i - 1]} {symbols[i]}", inf)
            ranks[i] = rank_of(f"{symbols[i]} {symbols[i + 1]}", inf)
        if n < 50:
            return symbols[:-1]
        heap = sorted([rank * n + i for i, rank in enumerate(ranks) if rank < inf])
        before, after, ranks = [*range(-1, n)], [*range(1, n + 1)], [*ranks, inf]
        while heap:
            rank, i = divmod(heappop(heap), n)
            if ranks[i] == rank:  # else a merge has changed this pair since
                left, gone = before[i], after[i]
                right = after[i] = after[gone]
                before[right] = i
                symbols[i], symbols[gone], ranks[gone] = symbols[i] + symbols[gone], "", inf
                for j, k in ((left, i), (i, right)):
                    ranks[j] = rank = rank_of(f"{symbols[j]} {symbols[k]}", inf)
                    if rank < inf:
                        heappush(heap, rank * n + j)
        return [symbol for symbol in symbols[:n] if symbol]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids; bytes that are no UTF-8 become U+FFFD.

        Raises ValueError for ids outside the vocabulary, TypeError for what is no integer.
        """
        return self._bytes(ids).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of `ids` while they come, whole characters only: joined, `decode(ids)`."""
        return codecs.iterdecode((self._bytes([i]) for i in ids), "utf-8", "replace")

    def _bytes(self, ids: Iterable[int]) -> bytes:
        ids = [index(i) for i in ids]
        if unknown := [i for i in ids if i not in self.decoder]:
            raise ValueError(f"ids outside the vocabulary: {unknown[:5]} ({len(unknown)} in all)")
        symbols = chain.from_iterable(self.decoder[i] for i in ids)
        # A token that was added by hand may hold characters that stand for no byte.
        return b"".join([_BYTE.get(s) or s.encode("utf-8", "replace") for s in symbols])
