"""Watching the model: every value that `gpt2.gpt2` computes, by name, in the order of computation.

The values are read off the functions of gpt2.py themselves. While they are watched, the layers
(`gelu`, `layer_norm`, `mha`, ...) are replaced in that module by functions that call them and keep
what went in and what came out; afterwards, and after an error, they are put back.

Names are those of the parameters (`h.3.attn.c_attn` is what that layer computes, not its weights),
and a few more for what lies between. For one text, and in this order:

    wte, wpe                     [n_seq, n_embd]            rows of the two tables of embeddings
    embeddings                   [n_seq, n_embd]            their sum, which enters the first block
    h.0.ln_1                     [n_seq, n_embd]
    h.0.attn.c_attn              [n_seq, 3 * n_embd]
    h.0.attn.q, .k, .v           [n_head, n_seq, d_head]    k and v: with those of a cache
    h.0.attn.scores, .weights    [n_head, n_seq, n_seq]     before and after the softmax
    h.0.attn.heads               [n_head, n_seq, d_head]    what each head has found
    h.0.attn.c_proj              [n_seq, n_embd]            the result of `mha`
    h.0.residual_after_attn      [n_seq, n_embd]
    h.0.ln_2                     [n_seq, n_embd]
    h.0.mlp.c_fc, h.0.mlp.gelu   [n_seq, 4 * n_embd]
    h.0.mlp.c_proj               [n_seq, n_embd]            the result of `ffn`
    h.0                          [n_seq, n_embd]            the result of the block
    h.1.ln_1 and so on
    ln_f                         [n_seq, n_embd]
    logits                       [n_seq, n_vocab]

Several texts have an axis more in front, [n_texts, ...].

Not for several threads: the replaced functions are those that the whole process uses, so only one
thread may run the model while it is watched, and one `watching()` may not stand within another.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import gpt2

# Scores up to this one are of keys that the query may not see: in other people's models, too, of
# which some add -1e9.
MASKED = gpt2.HIDDEN / 10


class Source(NamedTuple):
    """Lines of a source file: its path, the number of the first line, and their text."""

    file: str
    first_line: int
    text: str


@dataclass(frozen=True)
class Value:
    """An array that the model has computed, and where.

    name: see above; array: a copy, of the parameters' dtype (float32); function: the name of the
    function in gpt2.py that computed it; source: that function, or of a larger one the statement.
    """

    name: str
    array: np.ndarray
    function: str
    source: Source
    description: str  # one line

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


class Kind(NamedTuple):
    """What the values of one name have in common, in all blocks."""

    description: str
    function: str
    # Of a value that is not the result of its function: the variable in it, whose first assignment
    # is the source; or "return".
    variable: str | None = None


KINDS = {
    "wte": Kind("the embedding of each token, looked up by its id", "gpt2", "x"),
    "wpe": Kind("the embedding of each position", "gpt2", "x"),
    "embeddings": Kind("token plus position: what enters the first block", "gpt2", "x"),
    "ln_1": Kind("the stream, normalised for attention", "layer_norm"),
    "attn.c_attn": Kind("queries, keys and values, side by side", "linear"),
    "attn.q": Kind("what each position looks for, by head", "mha", "q"),
    "attn.k": Kind("what each position is found by, by head", "mha", "k"),
    "attn.v": Kind("what each position hands over, by head", "mha", "v"),
    "attn.scores": Kind(
        "how well each key matches each query; later positions are masked",
        "attention_weights",
        "scores",
    ),
    "attn.weights": Kind("how much each position attends to each one", "attention_weights"),
    "attn.heads": Kind("the values, averaged with these weights, by head", "attention"),
    "attn.c_proj": Kind("the heads mixed: what attention adds to the stream", "linear"),
    "residual_after_attn": Kind("the stream after attention", "transformer_block", "x"),
    "ln_2": Kind("the stream, normalised for the feed-forward layer", "layer_norm"),
    "mlp.c_fc": Kind("the feed-forward layer, widened", "linear"),
    "mlp.gelu": Kind("its activation", "gelu"),
    "mlp.c_proj": Kind("narrowed again: what the feed-forward layer adds to the stream", "linear"),
    "h": Kind("the stream after the block", "transformer_block", "return"),
    "ln_f": Kind("the stream after the last block, normalised", "layer_norm"),
    "logits": Kind("the score of each token of the vocabulary as the next one", "gpt2", "return"),
}


def kind_of(name: str) -> str:
    """The name without the number of the block: a key of `KINDS`.

    >>> kind_of("h.3.attn.q"), kind_of("h.3"), kind_of("ln_f")
    ('attn.q', 'h', 'ln_f')
    """
    parts = name.split(".")
    return ".".join(parts[2:]) or "h" if parts[0] == "h" else name


def block_of(name: str) -> int | None:
    """The number of the block that a name belongs to, None outside of the blocks.

    >>> block_of("h.3.attn.q"), block_of("ln_f")
    (3, None)
    """
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "h" else None


def watch(
    ids: Sequence[int] | np.ndarray,
    params: dict,
    n_head: int,
    caches: list[gpt2.KVCache] | None = None,
    n_last: int | None = None,
) -> dict[str, Value]:
    """All values of one pass, `gpt2.gpt2(ids, **params, n_head=n_head, ...)`, by their names.

    >>> norm, rng = {"g": np.ones(4), "b": np.zeros(4)}, np.random.default_rng(0)
    >>> params = {"wte": rng.normal(size=(9, 4)), "wpe": np.eye(5, 4), "blocks": [], "ln_f": norm}
    >>> values = watch([3, 1, 4], params, n_head=2)
    >>> list(values), values["logits"].shape
    (['wte', 'wpe', 'ln_f', 'logits'], (3, 9))
    """
    with watching() as values:
        gpt2.gpt2(ids, **params, n_head=n_head, caches=caches, n_last=n_last)
    return values


@contextmanager
def watching() -> Iterator[dict[str, Value]]:
    """A context in which passes through the model are recorded: for calls that `watch` cannot make.

    It yields a dict that has the values of the latest pass. The model must be called through its
    module, as `gpt2.gpt2(...)` or by a function of gpt2.py: a name that was imported from it
    before (`from gpt2 import gpt2`) still means the function that is not watched.

        with watching() as values:
            gpt2.generate(ids, params, n_head, 1)
        values["h.0.attn.weights"].array  # [n_texts = 1, n_head, n_seq, n_seq]
    """
    recorder = _Recorder()
    originals = {name: getattr(gpt2, name) for name in RECORDED}
    try:
        for name, function in originals.items():
            if name == "attention":  # in pieces, it would call `attention_weights` for each one
                function = inspect.unwrap(function)
            setattr(gpt2, name, recorder.recording(name, function))
        yield recorder.values
    finally:
        for name, function in originals.items():
            setattr(gpt2, name, function)


# ---------------------------------------------------------------- the recording


class Record(NamedTuple):
    """What is kept of a call: some of its arguments (by their names there) and its result.

    Each is given as the end of a value's name; "" is the name of the layer itself. A result of None
    is not kept: it is that of a call within.
    """

    arguments: dict[str, str]
    result: str | None


RECORDED = {
    "gelu": Record({}, "gelu"),
    "softmax": Record({"x": "scores"}, None),
    "layer_norm": Record({}, ""),
    "linear": Record({}, ""),
    "ffn": Record({}, None),
    "attention_weights": Record({}, "weights"),
    "attention": Record({"q": "q", "k": "k", "v": "v"}, "heads"),
    "mha": Record({}, None),
    "transformer_block": Record({}, ""),
    "gpt2": Record({}, "logits"),
}


@dataclass
class _Call:
    """A call under way. `name`: of the layer that it is, or within which it is; "" is the model."""

    function: str
    arguments: dict[str, Any]
    name: str
    used: set[str] = field(default_factory=set)  # arguments that have been used as layers
    n_blocks: int = 0  # blocks that it has called


class _Recorder:
    def __init__(self):
        self.values: dict[str, Value] = {}
        self._calls: list[_Call] = []  # the outermost first

    def recording(self, name: str, function: Callable) -> Callable:
        """`function`, with its calls recorded as `RECORDED[name]` says."""
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args, **kwargs):
            if not self._calls and name != "gpt2":  # outside of a pass, as the lens
                return function(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            if name == "gpt2":
                self.values.clear()
                self._watch_tables(bound.arguments)
            self._calls.append(_Call(name, bound.arguments, self._layer(name, bound.arguments)))
            try:
                self._keep_arguments()
                result = function(*bound.args, **bound.kwargs)
                self._keep_result(result)
            finally:
                self._calls.pop()
            return result

        return call

    def _layer(self, function: str, arguments: dict[str, Any]) -> str:
        """The name of the layer that a call is, or within which it is.

        Its last part is the argument of the caller that holds the parameters of the call:
        `mha(..., c_attn={"w": ..., "b": ...})` calls `linear(x, **c_attn)`.
        """
        if not self._calls:
            return ""
        caller = self._calls[-1]
        if function == "transformer_block":
            caller.n_blocks += 1
            return f"h.{caller.n_blocks - 1}"
        for name, layer in caller.arguments.items():
            is_layer = isinstance(layer, dict) and name not in caller.used
            if is_layer and all(arguments.get(key) is value for key, value in layer.items()):
                caller.used.add(name)
                return _join(caller.name, name)
        return caller.name

    def _watch_tables(self, arguments: dict[str, Any]) -> None:
        """Have the two tables of embeddings tell which rows are looked up."""
        for name in ("wte", "wpe"):
            table = np.asarray(arguments[name]).view(_Table)
            table.report = functools.partial(self._keep, name)
            arguments[name] = table

    def _keep_arguments(self) -> None:
        call = self._calls[-1]
        for argument, name in RECORDED[call.function].arguments.items():
            self._keep(_join(call.name, name), call.arguments[argument])
        # No function of their own computes these two sums: they are seen where they go in.
        if call.function == "transformer_block" and call.name == "h.0":
            self._keep("embeddings", call.arguments["x"])
        if call.name.endswith(".ln_2"):
            block = call.name.removesuffix(".ln_2")
            self._keep(f"{block}.residual_after_attn", call.arguments["x"])

    def _keep_result(self, result: np.ndarray) -> None:
        call = self._calls[-1]
        name = RECORDED[call.function].result
        if name is not None:
            self._keep(_join(call.name, name), result)

    def _keep(self, name: str, array: np.ndarray) -> None:
        kind = KINDS[kind_of(name)]
        source = _source(kind.function, kind.variable)
        self.values[name] = Value(name, np.array(array), kind.function, source, kind.description)


class _Table(np.ndarray):
    """A table of embeddings that reports the rows that are looked up. All else is plain arrays."""

    report: Callable[[np.ndarray], None]

    def __getitem__(self, index):
        rows = self.view(np.ndarray)[index]
        self.report(rows)
        return rows

    @property
    def T(self):
        return self.view(np.ndarray).T


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


@functools.cache
def _source(function_name: str, variable: str | None) -> Source:
    """The lines of a function in gpt2.py, or of the statement in it that gives `variable` its first
    value, or of its last `return`."""
    text = Path(gpt2.__file__).read_text(encoding="utf-8")
    functions = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    node = next(function for function in functions if function.name == function_name)
    first_line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    if variable is not None:
        node = _statement(node, variable)
        first_line = node.lineno
    lines = text.splitlines(keepends=True)[first_line - 1 : node.end_lineno]
    return Source(gpt2.__file__, first_line, textwrap.dedent("".join(lines)))


def _statement(function: ast.FunctionDef, variable: str) -> ast.stmt:
    if variable == "return":
        return function.body[-1]
    return next(
        statement
        for statement in function.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == variable
    )
