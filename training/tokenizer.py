"""The tokenizer of a new model: bytes alone, merges learned from its documents, or another model's.

Left out: tokenizers other than byte-level BPE.
Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from encoder import ENDOFTEXT, SPLIT, Encoder, byte_level_vocab, get_encoder


def make_encoder(tokenizer: str, documents: list[str]) -> Encoder:
    """The Encoder that `tokenizer` names.

    "char": bytes, no merges; "bpe:N": N merges learned from `documents`; otherwise a model folder,
    for its vocabulary. Raises ValueError for anything else, OSError if the folder has none.
    """
    kind, _, n_merges = tokenizer.partition(":")
    if tokenizer == "char":
        return learn_bpe([], 0)
    if kind == "bpe" and n_merges.isdecimal():
        return learn_bpe(documents, int(n_merges))
    if Path(tokenizer).is_dir():
        encoder = get_encoder(Path(tokenizer).name, str(Path(tokenizer).parent))
        if encoder.eot is None:
            raise ValueError(f"--tokenizer {tokenizer}: its vocabulary has no {ENDOFTEXT}")
        return encoder
    raise ValueError(f"--tokenizer {tokenizer}: expected char, bpe:N or a model folder")


def learn_bpe(documents: Iterable[str], n_merges: int) -> Encoder:
    """An Encoder with `n_merges` merges learned from documents.

    Documents are split into pieces by GPT-2's pattern, pieces into bytes. Then the pair of
    neighbouring symbols that occurs most often is merged into one symbol everywhere, `n_merges`
    times, or until no pair is left. 0 merges make a character-level (byte-level) tokenizer.

    >>> encoder = learn_bpe(["low lower lowest"], 4)
    >>> [encoder.decoder[i] for i in encoder.encode("low lower")]
    ['low', 'Ġlowe', 'r']
    """
    import regex

    byte_level = Encoder(byte_level_vocab(), [])
    occurrences = Counter(piece for text in documents for piece in regex.findall(SPLIT, text))
    counts = list(occurrences.values())  # how often pieces[i] occurs
    pieces = [[byte_level.decoder[i] for i in byte_level.encode(piece)] for piece in occurrences]
    pair_counts = Counter()
    pieces_with = defaultdict(set)  # pair -> the i of each piece it was ever seen in
    for i, piece in enumerate(pieces):
        for pair in pairwise(piece):
            pair_counts[pair] += counts[i]
            pieces_with[pair].add(i)

    # The heap brings the pair that occurs most often to the front. Where a count has changed, the
    # pair is put in once more: an entry counts only if it still says what `pair_counts` says.
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    merges = []
    while len(merges) < n_merges and heap:
        count, best = heapq.heappop(heap)
        if pair_counts[best] != -count or count == 0:
            continue
        merges.append(best)
        changed = set()
        for i in pieces_with.pop(best):  # only these pieces change, and the counts of their pairs
            for pair in pairwise(pieces[i]):
                pair_counts[pair] -= counts[i]
                changed.add(pair)
            pieces[i] = merge_pair(pieces[i], best)
            for pair in pairwise(pieces[i]):
                pair_counts[pair] += counts[i]
                pieces_with[pair].add(i)
                changed.add(pair)
        for pair in changed:
            heapq.heappush(heap, (-pair_counts[pair], pair))

    symbols = [symbol for symbol in byte_level.encoder if symbol != ENDOFTEXT]
    symbols += [left + right for left, right in merges]
    vocabulary = {symbol: i for i, symbol in enumerate([*symbols, ENDOFTEXT])}
    return Encoder(vocabulary, [f"{left} {right}" for left, right in merges])


def merge_pair(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """`symbols` with each occurrence of the pair, from the left, merged into one symbol.

    >>> merge_pair(["a", "b", "a", "b", "b"], ("a", "b"))
    ['ab', 'ab', 'b']
    """
    merged = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
