"""Models by name: load one, or download it first; save one.

A model on disk is a folder `models_dir/model_size/`. It holds three things:

- how large the model is (`hparams`): how many layers, how many numbers for each token, and so on;
- its vocabulary, with which the tokenizer (`encoder.py`) turns text into token ids and back;
- its weights (`params`): all the numbers that training has found.

There are two layouts. OpenAI published GPT-2 with the weights as a TensorFlow checkpoint; on the
Hugging Face Hub they are a safetensors file, which `train.py` writes as well. Both formats are the
numbers one after the other, with a list of where each array begins. So neither TensorFlow nor
PyTorch is needed, and nothing is loaded in the usual sense: the file is mapped into memory, the
arrays are views of it, and the system reads a page of it when it is first used.

The work is done in `model_files/`: `published.py` and `download.py` fetch a model, `folder.py`
reads or writes a folder, with `safetensors.py` and `tf_checkpoint.py` for the weights. What
programs need of these is here too: `save_model_folder`, `load_gpt2_params_from_tf_ckpt`; and, for
the names and shapes of parameters, `parameter_shapes`, `map_params`, `named` and `damage_in`.
"""

import re
import sys
from pathlib import Path

from encoder import Encoder
from model_files.folder import complete_layout, read_model_folder, save_model_folder
from model_files.parameters import damage_in, map_params, named, parameter_shapes
from model_files.published import fetch_model
from model_files.tf_checkpoint import load_gpt2_params_from_tf_ckpt

__all__ = [
    "damage_in",
    "download_gpt2_files",
    "load_encoder_hparams_and_params",
    "load_gpt2_params_from_tf_ckpt",
    "load_model",
    "map_params",
    "named",
    "parameter_shapes",
    "save_model_folder",
]


def load_model(
    model_size: str | None = None, models_dir: str = "models"
) -> tuple[Encoder, dict[str, int], dict]:
    """The model that is named, as `load_encoder_hparams_and_params` returns it.

    Without a name it is GPT-2 124M; or, where no server can be reached, the small model that
    stands beside this file in `models/python`, and a line on standard error says so.
    """
    if model_size is not None:
        return load_encoder_hparams_and_params(model_size, models_dir)
    try:
        return load_encoder_hparams_and_params("124M", models_dir)
    except ConnectionError as error:
        print(
            f"{error}; using the small bundled model, which only knows Python. "
            "For GPT-2 124M, restore the connection or set GPT2_BASE_URL to a mirror",
            file=sys.stderr,
        )
        bundled = Path(__file__).resolve().with_name("models")
        return load_encoder_hparams_and_params("python", str(bundled))


def load_encoder_hparams_and_params(
    model_size: str, models_dir: str
) -> tuple[Encoder, dict[str, int], dict]:
    """Load the model in `models_dir/model_size` -> encoder, hparams, params; or download it first.

    model_size: "124M", "355M", "774M" or "1558M"; OWNER/NAME for a GPT-2 on the Hugging Face Hub;
    or any other folder that is there. hparams: n_vocab, n_ctx, n_embd, n_head, n_layer. params:
    nested as in `parameter_shapes`, float32, wherever possible read-only views of the file.

        encoder, hparams, params = load_encoder_hparams_and_params("124M", "models")
        ids = encoder.encode("Not all heroes wear")
        embeddings = params["wte"][ids]  # [len(ids), n_embd]

    Raises what `download_gpt2_files` raises, OSError for files that cannot be read, ValueError for
    a name that leaves `models_dir` and for files that are damaged, are not a GPT-2 or do not belong
    together, ImportError for a checkpoint that only TensorFlow can read. Each message is one line.
    The weights are not looked at: a NaN in them surfaces in the logits (see `damage_in`).
    """
    _check_model_size(model_size, models_dir)
    folder = Path(models_dir, model_size)
    if complete_layout(folder) is None:
        download_gpt2_files(model_size, str(folder))
    return read_model_folder(folder)


def download_gpt2_files(model_size: str, model_dir: str) -> None:
    """Fetch those files of a model that the folder `model_dir` does not have.

    model_size: "124M", "355M", "774M" or "1558M"; OWNER/NAME for a GPT-2 on the Hugging Face Hub.
    The four come from OpenAI. If its server refuses, sends a web page or cannot be reached, they
    come from the Hub, in Hugging Face's layout, and a line on standard error says so. Nothing is
    fetched into a folder that is complete in either layout, and a file that is there is never
    replaced: delete it to have it fetched.

    Environment: GPT2_BASE_URL is the address of a mirror of OpenAI's files. All models but
    OWNER/NAME then come from it and from nowhere else, and they may have any name. OWNER/NAME
    always comes from the Hub. HF_ENDPOINT is the Hub's address.

    A file is called `<name>.part` until it is whole, and a later run continues it. Its size and
    SHA-256 are checked where they are published, or the Hub gives them. Files that do not fit each
    other are refused, and not kept. `download.lock`, which stays in the folder, is harmless: with
    it one process fetches at a time, others wait.
    Raises FileNotFoundError for an unknown model, the built-in ConnectionError if no server can be
    reached, OSError for any other failure, ValueError for files that are not a GPT-2.
    """
    folder = Path(model_dir)
    if complete_layout(folder) is None:
        fetch_model(model_size, folder)


def _check_model_size(model_size: str, models_dir: str) -> None:
    """Raise ValueError unless it names a folder within `models_dir`: NAME, or OWNER/NAME."""
    names = model_size.split("/")
    wrong = len(names) > 2 or re.search(r"[\\:\0]", model_size)
    if wrong or any(name in ("", ".", "..") for name in names):
        raise ValueError(
            f"model_size should name a folder in {models_dir}, "
            f"or OWNER/NAME on the Hugging Face Hub, not {model_size!r}"
        )
