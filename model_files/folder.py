"""A model folder, read or written as a whole.

It is complete in one of two layouts, or it is no model:

    OpenAI's          checkpoint, hparams.json, encoder.json, vocab.bpe, and a TensorFlow checkpoint
    Hugging Face's    config.json, vocab.json, merges.txt, model.safetensors

Reading changes nothing in a folder. Left out: models whose configuration says what `gpt2.gpt2` does
not compute (see `SUPPORTED_CONFIG`), and keeping apart two programs that write different models
into one folder at the same time.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from encoder import HUGGING_FACE_LAYOUT, OPENAI_LAYOUT, Encoder, read_encoder
from model_files.disk import parse_object, read_file, replacing
from model_files.parameters import check_values, map_params, named, parameter_shapes
from model_files.safetensors import read_safetensors, write_safetensors
from model_files.tf_checkpoint import checkpoint_name, load_gpt2_params_from_tf_ckpt

HUGGING_FACE_FILES = ("config.json", *HUGGING_FACE_LAYOUT, "model.safetensors")
# Our names of the hparams -> those in hparams.json, and in config.json.
OPENAI_HPARAMS = {name: name for name in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")}
HUGGING_FACE_HPARAMS = OPENAI_HPARAMS | {"n_vocab": "vocab_size", "n_ctx": "n_positions"}
# The values that config.json may have. The first of them is the default, and it is what
# `save_model_folder` writes.
SUPPORTED_CONFIG = {
    "model_type": ("gpt2",),
    "layer_norm_epsilon": (1e-5,),
    "tie_word_embeddings": (True,),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # one formula
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
LOCK_FILE = "download.lock"  # which a download leaves behind, and which means nothing


# ---------------------------------------------------------------- reading


def read_model_folder(folder: Path) -> tuple[Encoder, dict[str, int], dict]:
    """-> encoder, hparams, params of the model in a folder.

    Raises FileNotFoundError if it is not complete, another OSError if a file cannot be read,
    ValueError if files are damaged or do not belong together.
    """
    layout = complete_layout(folder)
    if layout is None:
        raise FileNotFoundError(what_is_missing(folder))
    encoder, hparams = read_small_files(layout, folder.joinpath)
    if layout == HUGGING_FACE_LAYOUT:
        return encoder, hparams, read_safetensors(folder / "model.safetensors", hparams)
    return encoder, hparams, load_gpt2_params_from_tf_ckpt(_prefix(folder), hparams)


def complete_layout(folder: Path) -> tuple[str, str] | None:
    """The layout in which a folder is read, or None if it is not complete in either.

    A layout is known by the names of its two files of the vocabulary. If the folder has both, the
    safetensors file holds somebody's own weights (OpenAI published none), and it is read.
    """
    if not _missing_hugging_face_files(folder):
        return HUGGING_FACE_LAYOUT
    if not _missing_openai_files(folder):
        return OPENAI_LAYOUT
    return None


def what_is_missing(folder: Path) -> str:
    names = set(os.listdir(folder)) - {LOCK_FILE} if folder.is_dir() else ()
    found = f"has {sorted(names)}" if names else "is empty or not there"
    return (
        f"{folder} {found}: lacks {_missing_hugging_face_files(folder)} of Hugging Face's layout, "
        f"{_missing_openai_files(folder)} of OpenAI's"
    )


def _missing_hugging_face_files(folder: Path) -> list[str]:
    return [name for name in HUGGING_FACE_FILES if not (folder / name).is_file()]


def _missing_openai_files(folder: Path) -> list[str]:
    prefix = _prefix(folder).name
    needed = ["checkpoint", "encoder.json", "hparams.json", "vocab.bpe", f"{prefix}.index"]
    missing = [name for name in needed if not (folder / name).is_file()]
    data_file = re.compile(re.escape(prefix) + r"\.data-\d{5}-of-\d{5}")  # one, or several
    if not (folder.is_dir() and any(map(data_file.fullmatch, os.listdir(folder)))):
        missing.append(f"{prefix}.data-00000-of-00001")
    return missing


def _prefix(folder: Path) -> Path:
    """What the paths of the checkpoint's files begin with."""
    return folder / (checkpoint_name(folder / "checkpoint") or "model.ckpt")


def read_small_files(
    layout: tuple[str, str], where: Callable[[str], Path]
) -> tuple[Encoder, dict[str, int]]:
    """All but the weights: the vocabulary and the configuration, compared with each other.

    where(name) is the path of a file: of one in a folder, or of one that was just fetched.
    Raises OSError if a file cannot be read, ValueError if it cannot be understood.
    """
    encoder = read_encoder(*map(where, layout))
    if layout == HUGGING_FACE_LAYOUT:
        hparams = read_config(where("config.json"))
    else:
        hparams, _ = _read_hparams(where("hparams.json"), OPENAI_HPARAMS)
    if len(encoder.encoder) != hparams["n_vocab"]:
        raise ValueError(
            f"{where(layout[0])} has {len(encoder.encoder)} tokens, "
            f"but the model has {hparams['n_vocab']}, one for each row of wte"
        )
    return encoder, hparams


def read_config(path: Path) -> dict[str, int]:
    """The hparams in `config.json`. Raises ValueError if `gpt2.gpt2` does not compute the model."""
    hparams, config = _read_hparams(path, HUGGING_FACE_HPARAMS)
    supported = {**SUPPORTED_CONFIG, "n_inner": (None, 4 * hparams["n_embd"])}
    for key, values in supported.items():
        value = config.get(key, values[0])
        if value not in values:
            raise ValueError(f"{path}: {key} is {value!r:.80}; only {values} can be computed")
    return hparams


def _read_hparams(path: Path, names: dict[str, str]) -> tuple[dict[str, int], dict]:
    """Read a JSON file -> hparams, and the whole configuration.

    `names` maps our names of the hparams to those in the file.
    """
    try:
        config = parse_object(read_file(path))
        lacking = [theirs for theirs in names.values() if theirs not in config]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except ValueError as error:
        raise ValueError(f"{path} is not a complete, valid configuration: {error}") from None
    hparams = {ours: config[theirs] for ours, theirs in names.items()}
    for name, number in hparams.items():
        if type(number) is not int or number < 1:
            raise ValueError(f"{path}: {names[name]} should be 1 or more, is {number!r:.80}")
    if hparams["n_embd"] % hparams["n_head"]:
        n_embd, n_head = hparams["n_embd"], hparams["n_head"]
        raise ValueError(f"{path}: n_embd {n_embd} should be a multiple of n_head {n_head}")
    return hparams, config


# ---------------------------------------------------------------- writing


def save_model_folder(
    model_dir: str | os.PathLike,
    encoder: Encoder,
    hparams: dict[str, int],
    params: dict,
    dtype: type[np.floating] = np.float32,
) -> None:
    """Write a model in Hugging Face's layout, which `transformers` can read as well.

    dtype: of the weights on disk, float32 or float16. If the same model is there, as in training,
    its weights are replaced in one step. The weights come last: without them a folder is no model,
    so a killed save never leaves a mixture. Raises OSError if writing fails, ValueError if the
    folder holds another model, for weights that are NaN or huge, and for weights or a vocabulary of
    other sizes than `hparams` has.
    """
    folder = Path(model_dir)
    if len(encoder.encoder) != hparams["n_vocab"]:
        raise ValueError(f"{len(encoder.encoder)} tokens do not fit n_vocab {hparams['n_vocab']}")
    if np.dtype(dtype) not in (np.float32, np.float16):
        raise ValueError(f"dtype {np.dtype(dtype)}: expected float32 or float16")
    expected = named(parameter_shapes(hparams))
    if {name: np.shape(array) for name, array in named(params).items()} != expected:
        raise ValueError(f"cannot write {folder}: the parameters are not of the sizes {hparams}")
    with np.errstate(over="ignore"):  # of values too large for float16: refused below
        stored = map_params(lambda name, array: np.asarray(array, dtype, "C"), params)
    check_values(f"cannot write {folder}", stored)

    weights = folder / "model.safetensors"
    small_files = _small_files(encoder, hparams, np.dtype(dtype).name)
    changed = [name for name in small_files if not _has_content(folder / name, small_files[name])]
    if changed and weights.exists():
        raise ValueError(
            f"{folder} holds another model, with another {changed[0]}: name another folder, "
            f"or delete {weights}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in changed:
        with replacing(folder / name) as temporary:
            temporary.write_bytes(small_files[name])
    with replacing(weights) as temporary:
        write_safetensors(temporary, stored)


def _small_files(encoder: Encoder, hparams: dict[str, int], dtype: str) -> dict[str, bytes]:
    """{name: content} of all files of a model but the weights."""
    config = {key: values[0] for key, values in SUPPORTED_CONFIG.items()}
    for ours, theirs in HUGGING_FACE_HPARAMS.items():
        config[theirs] = hparams[ours]
    config |= {"architectures": ["GPT2LMHeadModel"], "torch_dtype": dtype}
    config |= {"bos_token_id": encoder.eot, "eos_token_id": encoder.eot, "n_ctx": hparams["n_ctx"]}
    merges = "".join(f"{left} {right}\n" for left, right in encoder.bpe_ranks)
    return {
        "config.json": json.dumps(config, indent=2).encode(),
        "vocab.json": json.dumps(encoder.encoder).encode(),
        "merges.txt": f"#version: 0.2\n{merges}".encode(),
    }


def _has_content(path: Path, content: bytes) -> bool:
    try:
        return read_file(path) == content
    except OSError:
        return False
