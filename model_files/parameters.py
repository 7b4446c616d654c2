"""The parameters of a model: their names and shapes, and what a damaged one is.

They are nested dicts and lists of arrays, as `gpt2.gpt2` takes them. Here a parameter is called by
its place in them, such as `blocks.0.attn.c_attn.w`; each format of files has names of its own.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MAX_WEIGHT = 1e9  # from some 1e12 on, the cube in gelu is too large for float32


def parameter_shapes(hparams: dict[str, int]) -> dict:
    """The shapes of a model's parameters, nested as `gpt2.gpt2` takes them.

    >>> hparams = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
    >>> shapes = parameter_shapes(hparams)
    >>> shapes["wte"], shapes["blocks"][11]["mlp"]["c_fc"]
    ((50257, 768), {'w': (768, 3072), 'b': (3072,)})
    """
    d = hparams["n_embd"]
    norm = {"g": (d,), "b": (d,)}
    attn = {"c_attn": {"w": (d, 3 * d), "b": (3 * d,)}, "c_proj": {"w": (d, d), "b": (d,)}}
    mlp = {"c_fc": {"w": (d, 4 * d), "b": (4 * d,)}, "c_proj": {"w": (4 * d, d), "b": (d,)}}
    block = {"ln_1": norm, "attn": attn, "ln_2": norm, "mlp": mlp}
    # The blocks are the same dict n_layer times: use the shapes, do not change them.
    return {
        "wte": (hparams["n_vocab"], d),
        "wpe": (hparams["n_ctx"], d),
        "blocks": [block] * hparams["n_layer"],
        "ln_f": norm,
    }


def map_params(function: Callable[[str, Any], Any], tree: Any, name: str = "") -> Any:
    """The same dicts and lists, with function(name, leaf) in place of each leaf.

    >>> map_params(lambda name, shape: name, {"ln_f": {"g": (3,)}, "blocks": [{"w": (3, 3)}]})
    {'ln_f': {'g': 'ln_f.g'}, 'blocks': [{'w': 'blocks.0.w'}]}
    """
    if isinstance(tree, dict):
        return {key: map_params(function, child, f"{name}{key}.") for key, child in tree.items()}
    if isinstance(tree, list):
        return [map_params(function, child, f"{name}{i}.") for i, child in enumerate(tree)]
    return function(name.removesuffix("."), tree)


def named(tree: Any) -> dict[str, Any]:
    """{name: leaf} of nested parameters, shapes or gradients, in the order of the nest.

    >>> named({"ln_f": {"g": 1, "b": 2}, "blocks": [{"w": 3}]})
    {'ln_f.g': 1, 'ln_f.b': 2, 'blocks.0.w': 3}
    """
    leaves = {}
    map_params(leaves.__setitem__, tree)
    return leaves


# ---------------------------------------------------------------- collected from a file


def collect(
    path: str | Path,
    hparams: dict[str, int],
    name_in_file: Callable[[str], str],
    shapes: dict[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
) -> dict:
    """The nested parameters of a file, as float32 arrays of the shapes that `hparams` asks for.

    `shapes` lists all tensors of the file by their names there; `read(name)` returns the values of
    one, in any shape. Views of the file are not looked at; of what has to be copied the values are
    checked. Raises ValueError for a tensor that is missing, has another shape, or is damaged.
    """
    check_shapes(path, hparams, name_in_file, shapes)

    def parameter(name, shape):
        name = name_in_file(name)
        try:
            with np.errstate(over="ignore"):  # what is too large for float32 becomes an infinity
                # Copies only what is not float32 yet, or not at a multiple of four bytes.
                array = np.require(read(name), np.float32, ["ALIGNED"]).reshape(shape)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: cannot read {name}: {error}") from None
        # A copy no longer knows its file, so that `damage_in` could not name it.
        if _file_of(array) is None and (damage := _damage(array)):
            raise ValueError(f"{path}: {name} has {damage}, so it is damaged")
        return array

    return map_params(parameter, parameter_shapes(hparams))


def check_shapes(
    path: str | Path,
    hparams: dict[str, int],
    name_in_file: Callable[[str], str],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    """Raise ValueError unless a file has all parameters, in the shapes that `hparams` asks for.

    The other arguments are those of `collect`.
    """
    # The layers come first, because the shapes of a million of them would fill the memory.
    n_layer = hparams["n_layer"]
    last, one_more = [name_in_file(f"blocks.{i}.ln_1.g") for i in (n_layer - 1, n_layer)]
    if last not in shapes:
        raise ValueError(f"{path}: n_layer is {n_layer}, but {last} is missing")
    if one_more in shapes:
        raise ValueError(f"{path}: n_layer is {n_layer}, but there is {one_more}")
    for name, shape in named(parameter_shapes(hparams)).items():
        name = name_in_file(name)
        if name not in shapes:
            raise ValueError(f"{path}: {name} is missing")
        if tuple(shapes[name]) not in (shape, (1, *shape)):  # OpenAI: [1, n_in, n_out]
            raise ValueError(f"{path}: {name} should be {shape}, is {tuple(shapes[name])}")


# ---------------------------------------------------------------- damaged


def check_values(path: str | Path, params: dict) -> None:
    """Raise ValueError for a parameter with a NaN in it, or numbers too large to compute with."""
    for name, array in named(params).items():
        if damage := _damage(array):
            raise ValueError(f"{path}: {name} has {damage}")


def damage_in(params: dict) -> str:
    """One line that says why logits are not finite: the file and the parameter that is damaged."""
    for name, array in named(params).items():
        path = _file_of(array) or "the parameters"  # which were converted, or made in memory
        if damage := _damage(array):
            return f"{path}: {name} has {damage}, so it is damaged"
    return f"{path}: the logits are not finite, though each parameter is: too large numbers meet"


def _damage(array: np.ndarray) -> str | None:
    """What is wrong with the values of a parameter, None if nothing is."""
    with np.errstate(invalid="ignore"):
        smallest, largest = float(array.min()), float(array.max())  # a NaN is both
    largest = max(-smallest, largest)
    if largest <= MAX_WEIGHT:
        return None
    return "a NaN" if math.isnan(largest) else f"a value of {largest:.3g}"


def _file_of(array: np.ndarray) -> str | None:
    """The file that an array is a view of."""
    while array is not None:
        if filename := getattr(array, "filename", None):  # a memmap: see `disk.map_file`
            return str(filename)
        array = getattr(array, "base", None)
    return None
