r"""Byte-level BPE (byte-pair encoding), the tokenizer of GPT-2: text to token ids and back.

Encoding takes three steps:

1. The text is split into pieces: words, numbers, punctuation, white space (`SPLIT`).
2. Each byte of a piece, in UTF-8, becomes a symbol.
3. Neighbouring symbols are merged into longer ones, by a list of merges that was learned from
   text (`merge_symbols`). The symbols that are left are the tokens.

Sources: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.2;
Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016.
Left out: learning merges, and special tokens inside a text.

Unicode defines which characters are letters, numbers or white space, and adds characters every
year. This file, tiktoken and tokenizers each follow some version of Unicode, so they may give
different ids for characters newer than that. Either way the ids decode to the same text.
"""

import codecs
import functools
import hashlib
import heapq
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from math import inf
from typing import Any

from model_files.disk import parse_json, read_file

ENDOFTEXT = "<|endoftext|>"
# The names of the vocabulary and of the merges.
OPENAI_LAYOUT = ("encoder.json", "vocab.bpe")
HUGGING_FACE_LAYOUT = ("vocab.json", "merges.txt")
LAYOUTS = (OPENAI_LAYOUT, HUGGING_FACE_LAYOUT)

SPLIT = r"'(?:s|t|re|ve|m|ll|d)| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# A text is cut into blocks of 200 characters or more before it is split, so that one é slows down
# only its own block (see `_splitter`). Where white space follows a visible ASCII character, a
# piece always ends, so a cut there does not change the pieces before it. It does not change those
# after it either: `SPLIT` never looks back at what comes before a piece.
BLOCK = re.compile(r".{200,}?[!-~](?=[ \n])|.+", re.DOTALL)

LONG_PIECE = 40  # symbols; from this length on, `merge_many_symbols` is faster
# Of GPT-2's own vocabulary and merges, one file after the other.
GPT2_SHA256 = "00f404d36600411e497efb3df08d3b4e094f0820e2595afcb7cbd0c4353d4fcb"
BRACKETS = ("<>", "[]")  # how special tokens begin and end
MAX_KNOWN_PIECES = 2**16  # some 15 MB
MAX_KNOWN_LENGTH = 64  # characters


def _symbols_of_bytes() -> dict[int, str]:
    """Byte -> the visible character that stands for it in the vocabulary files, in GPT-2's order.

    The bytes that are visible characters of Latin-1 stand for themselves and have the ids 0 to
    187. The others follow, as the characters from U+0100 on: a space is "Ġ", a line end "Ċ".
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    symbols = {byte: chr(byte) for byte in visible}
    symbols.update({byte: chr(0x100 + i) for i, byte in enumerate(others)})
    return symbols


SYMBOL_OF_BYTE = _symbols_of_bytes()
BYTE_OF_SYMBOL = {symbol: bytes([byte]) for byte, symbol in SYMBOL_OF_BYTE.items()}


def byte_level_vocab() -> dict[str, int]:
    """The 256 bytes in GPT-2's order, and `<|endoftext|>` = 256: a vocabulary without merges.

    >>> Encoder(byte_level_vocab(), []).encode("Aé")
    [32, 127, 102]
    """
    symbols = [*SYMBOL_OF_BYTE.values(), ENDOFTEXT]
    return {symbol: token_id for token_id, symbol in enumerate(symbols)}


def merge_symbols(symbols: list[str], ranks: dict[str, int]) -> list[str]:
    """Merge the pair of lowest rank, the leftmost among equals, until no pair has a rank.

    `ranks` has the rank of each merge "left right": 0 was learned first.

        h  e  l  l  o      ranks here: "h e" 0, "l l" none, "l o" 1, "he l" 2
        he l  l  o         merged "h e"
        he l  lo           merged "l o"
        hel   lo           merged "he l"; "hel lo" has no rank: done

    >>> merge_symbols(["h", "e", "l", "l", "o"], {"h e": 0, "l o": 1, "he l": 2})
    ['hel', 'lo']
    """
    symbols = list(symbols)
    # pair_ranks[i] is the rank of symbols i and i + 1.
    pair_ranks = [ranks.get(f"{left} {right}", inf) for left, right in pairwise(symbols)]
    while pair_ranks:
        lowest = min(pair_ranks)
        if lowest == inf:
            break
        i = pair_ranks.index(lowest)
        symbols[i] += symbols.pop(i + 1)
        del pair_ranks[i]
        # The new symbol makes new pairs, with the symbol before it and the one after it.
        if i > 0:
            pair_ranks[i - 1] = ranks.get(f"{symbols[i - 1]} {symbols[i]}", inf)
        if i < len(pair_ranks):
            pair_ranks[i] = ranks.get(f"{symbols[i]} {symbols[i + 1]}", inf)
    return symbols


def merge_many_symbols(symbols: list[str], ranks: dict[str, int]) -> list[str]:
    """The same as `merge_symbols`, but fast on long pieces.

    `merge_symbols` looks at all pairs before every merge: n * n steps for n symbols, which is
    hours for a line of a million letters. Here each rank has a list of the places of its pairs,
    and a heap says which rank comes next. The symbols are a linked list, so a merge moves nothing.
    The time grows like n, but for the sorting of the places.

    >>> merge_many_symbols(["h", "e", "l", "l", "o"], {"h e": 0, "l o": 1, "he l": 2})
    ['hel', 'lo']
    """
    n = len(symbols)
    symbols = list(symbols)
    # symbols[i] has the neighbours symbols[before[i]] and symbols[after[i]]; -1 and n: no neighbour
    before = list(range(-1, n - 1))
    after = list(range(1, n + 1))
    # pair_ranks[i] is the rank of symbols[i] and the symbol after it.
    pair_ranks = [ranks.get(f"{left} {right}", inf) for left, right in pairwise(symbols)] + [inf]
    places = {inf: []}  # rank -> where pairs of this rank are, or once were
    for i, rank in enumerate(pair_ranks):
        if rank in places:
            places[rank].append(i)
        else:
            places[rank] = [i]
    del places[inf]
    heap = list(places)
    heapq.heapify(heap)
    while heap:
        rank = heapq.heappop(heap)
        to_merge = places.pop(rank)
        to_merge.sort(reverse=True)  # the leftmost is the last, where `pop` is fast
        while to_merge:
            i = to_merge.pop()
            # The pair may be gone, because one of its symbols was merged with another. Comparing
            # ranks is enough: if the pair that is now at i has this rank, it is the same merge.
            if pair_ranks[i] != rank:
                continue
            absorbed = after[i]
            previous, following = before[i], after[absorbed]
            symbols[i] += symbols[absorbed]
            symbols[absorbed] = ""
            pair_ranks[i] = inf
            pair_ranks[absorbed] = inf
            after[i] = following
            # The new symbol makes new pairs, with the symbol before it and the one after it. Their
            # ranks are others than `rank`, since a rank belongs to one pair of symbols.
            if previous >= 0:
                new_rank = ranks.get(f"{symbols[previous]} {symbols[i]}", inf)
                pair_ranks[previous] = new_rank
                if new_rank in places:
                    places[new_rank].append(previous)
                elif new_rank < inf:
                    places[new_rank] = [previous]
                    heapq.heappush(heap, new_rank)
            if following < n:
                before[following] = i
                new_rank = ranks.get(f"{symbols[i]} {symbols[following]}", inf)
                pair_ranks[i] = new_rank
                if new_rank in places:
                    places[new_rank].append(i)
                elif new_rank < inf:
                    places[new_rank] = [i]
                    heapq.heappush(heap, new_rank)
            if to_merge and heap and heap[0] < rank:  # a new pair comes first, the others wait
                places[rank] = to_merge
                heapq.heappush(heap, rank)
                break
    return [symbol for symbol in symbols if symbol]


@functools.cache
def _splitter(is_ascii: bool) -> Callable[[str], list[str]]:
    """The function that splits a block of text into its pieces, as `SPLIT` says."""
    if is_ascii:  # `re` has no \p{...}, but is twice as fast, and spares the import of `regex`
        ascii_split = SPLIT.replace(r"\p{L}", "A-Za-z").replace(r"\p{N}", "0-9")
        return re.compile(ascii_split, re.ASCII).findall
    import regex

    return regex.compile(SPLIT).findall


class Encoder:
    """A byte-level BPE tokenizer, made of a vocabulary and a list of merges.

    vocabulary: token -> id, in the visible characters of the vocabulary files.
    merges: "left right" each, first learned first (ValueError for other forms). Without merges
    each byte is a token.

    Attributes: `encoder` (token -> id), `decoder` (id -> token), `eot` (the id of `<|endoftext|>`,
    None if the vocabulary lacks it), `bpe_ranks`.

    >>> tokenizer = Encoder({**byte_level_vocab(), "he": 257, "hel": 258}, ["h e", "he l"])
    >>> tokenizer.encode("hello he")
    [258, 75, 78, 220, 257]
    >>> tokenizer.decode([258, 75, 78])
    'hello'
    >>> list(tokenizer.decode_stream([258, 127, 102, 127]))  # 127 is the first byte of "é"
    ['hel', 'é', '�']
    """

    def __init__(self, vocabulary: dict[str, int], merges: Iterable[str]):
        self.encoder = vocabulary
        self.decoder = {token_id: token for token, token_id in vocabulary.items()}
        self.eot = vocabulary.get(ENDOFTEXT)
        # By "left right" and not by (left, right): 50,000 tuples would take longer to make.
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}
        self._known_pieces = {}  # piece -> its ids
        for merge in self._ranks:
            if merge.count(" ") != 1:
                raise ValueError(f"a merge is two symbols with a space between, not {merge!r:.80}")

    @property
    def bpe_ranks(self) -> dict[tuple[str, str], int]:
        """(left, right) -> rank of every merge, first learned first."""
        return {tuple(merge.split(" ")): rank for merge, rank in self._ranks.items()}

    def encode(self, text: str) -> list[int]:
        """The ids of any text. `<|endoftext|>` in it is plain text: its id is `self.eot`.

        UTF-8 cannot hold surrogates: a pair becomes the character it stands for, a lone one
        U+FFFD, as in tiktoken. Every other text comes back from `decode` as it was.
        Raises TypeError for anything but a str, ValueError if the vocabulary lacks a symbol.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode takes a str, not {type(text).__name__}")
        if not text.isascii():
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        known_ids = self._known_pieces.get
        ids = []
        for block in BLOCK.findall(text):
            split = _splitter(block.isascii())
            for piece in split(block):
                # A piece is never empty, so its ids are not either, and `or` means "not known".
                ids += known_ids(piece) or self._encode_piece(piece)
        return ids

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        symbols = [SYMBOL_OF_BYTE[byte] for byte in piece.encode()]
        if len(symbols) < LONG_PIECE:
            tokens = merge_symbols(symbols, self._ranks)
        else:
            tokens = merge_many_symbols(symbols, self._ranks)
        try:
            # Through a list, which is faster than a generator. A tuple takes less memory.
            ids = tuple([self.encoder[token] for token in tokens])
        except KeyError as error:
            raise ValueError(f"no token {error} in the vocabulary, for {piece[:40]!r}") from None
        if len(piece) <= MAX_KNOWN_LENGTH and len(self._known_pieces) < MAX_KNOWN_PIECES:
            self._known_pieces[piece] = ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids; bytes that are not valid UTF-8 become U+FFFD.

        Raises ValueError for ids outside the vocabulary, TypeError for ids that are not integers.
        """
        return self._bytes(ids).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of `ids` as they arrive, in whole characters. Joined, it is `decode(ids)`."""
        parts = (self._bytes([token_id]) for token_id in ids)
        return codecs.iterdecode(parts, "utf-8", "replace")

    def _bytes(self, ids: Iterable[int]) -> bytes:
        ids = [operator.index(token_id) for token_id in ids]
        unknown = [token_id for token_id in ids if token_id not in self.decoder]
        if unknown:
            raise ValueError(f"ids outside the vocabulary: {unknown[:5]} ({len(unknown)} in all)")
        symbols = chain.from_iterable(self.decoder[token_id] for token_id in ids)
        # A token that was added by hand may have characters that stand for no byte: those are text.
        return b"".join([BYTE_OF_SYMBOL.get(s) or s.encode("utf-8", "replace") for s in symbols])


def get_encoder(
    model_name: str, models_dir: str, layouts: Sequence[tuple[str, str]] = LAYOUTS
) -> Encoder:
    """Read the tokenizer in the folder `models_dir/model_name`.

    layouts: those that may be read. If the folder has the files of several, the first counts.
    Raises FileNotFoundError if the files are not there, another OSError if one cannot be read,
    ValueError if one cannot be understood or the two do not belong together.
    """
    folder = os.path.join(models_dir, model_name)
    for names in layouts:
        vocabulary_path, merges_path = [os.path.join(folder, name) for name in names]
        if os.path.isfile(vocabulary_path) and os.path.isfile(merges_path):
            return read_encoder(vocabulary_path, merges_path)
    needed = " or ".join(" and ".join(names) for names in layouts)
    found = [name for name in chain(*layouts) if os.path.isfile(os.path.join(folder, name))]
    raise FileNotFoundError(
        f"no tokenizer in {folder}: it needs {needed}, and has {', '.join(found) or 'none of them'}"
    )


def read_encoder(vocabulary_path: str | os.PathLike, merges_path: str | os.PathLike) -> Encoder:
    """Read the tokenizer in these two files. Raises OSError and ValueError as `get_encoder`."""
    vocabulary_file, merges_file = read_file(vocabulary_path), read_file(merges_path)
    is_gpt2s = hashlib.sha256(vocabulary_file + merges_file).hexdigest() == GPT2_SHA256
    with _path_in_errors(vocabulary_path):
        vocabulary = parse_json(vocabulary_file)
        if not is_gpt2s:
            _check_vocabulary(vocabulary)
    with _path_in_errors(merges_path):
        merges = _merges_in(merges_file)
        encoder = Encoder(vocabulary, merges)
        if not is_gpt2s:  # it would take 30 ms, as long as all the rest
            _check_merges(merges, vocabulary)
    return encoder


@contextmanager
def _path_in_errors(path: str | os.PathLike) -> Iterator[None]:
    """Begin the message of a ValueError with `path`. Errors of JSON and UTF-8 are ValueErrors."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_vocabulary(vocabulary: Any) -> None:
    """Raise ValueError unless it is {token: id} with the ids 0 to n - 1, each once."""
    if vocabulary == {}:
        raise ValueError("the vocabulary has no tokens")
    if not isinstance(vocabulary, dict) or set(map(type, vocabulary.values())) != {int}:
        raise ValueError("not a JSON object of tokens and integer ids")
    ids, n_tokens = vocabulary.values(), len(vocabulary)
    missing = set(range(n_tokens)).difference(ids)
    if missing:  # so another is doubled, or not one of them
        raise ValueError(
            f"{n_tokens} tokens should have the ids 0 to {n_tokens - 1}, each once: "
            f"{min(missing)} is missing, the ids go from {min(ids)} to {max(ids)}"
        )


def _merges_in(content: bytes) -> list[str]:
    """The merges in a file, "left right" each."""
    # str.splitlines would also split at characters that may be symbols of a merge.
    lines = str(content, "utf-8").replace("\r\n", "\n").split("\n")
    if lines[0].startswith("#version"):
        del lines[0]
    return [line for line in lines if line]


def _check_merges(merges: list[str], vocabulary: dict[str, int]) -> None:
    """Raise ValueError unless the merges are those of the vocabulary, all of them.

    Each merge is of two tokens, and makes a third. Each token of several symbols is made by one,
    but for special ones like <|endoftext|>, which are told by their brackets. Without this check a
    file that was cut short would give other ids, and no error.
    """
    if len(set(merges)) < len(merges):
        doubled = next(left for left, right in pairwise(sorted(merges)) if left == right)
        raise ValueError(f"the merge {doubled!r:.80} comes twice")
    made = {merge.replace(" ", "") for merge in merges}
    used = set(" ".join(merges).split(" ")) if merges else set()
    unknown = (made | used) - vocabulary.keys()
    if unknown:
        raise ValueError(f"it has {min(unknown)!r:.80}, which is not in the vocabulary")
    not_made = [t for t in vocabulary.keys() - made if len(t) > 1 and t[0] + t[-1] not in BRACKETS]
    if not_made:
        raise ValueError(
            f"it lacks merges that make {min(not_made)!r:.80} and {len(not_made) - 1} other tokens "
            "of the vocabulary: is it cut short?"
        )
