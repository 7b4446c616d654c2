"""Model folders: fetch one, read one, write one.

A GPT-2 is a folder `models_dir/model_size/` in one of two layouts:

- OpenAI's, the seven `OPENAI_FILES`: the weights are a TensorFlow checkpoint.
- Hugging Face's, the four `HF_FILES`: the weights are one safetensors file.

An OpenAI folder is converted once, by writing the second layout next to the first. From then on
the weights are mapped into memory as they are on disk, and TensorFlow is not needed.

Left out: weights in several files or in pickles (`pytorch_model.bin`), and every configuration
that is not in `COMPUTED`.

Sources: addresses and file names are those of `download_model.py` in github.com/openai/gpt-2;
the hashes of the vocabulary are tiktoken's (`tiktoken_ext/openai_public.py`); the safetensors
format is described in github.com/huggingface/safetensors.
"""

import contextlib
import hashlib
import json
import mmap
import os
import sys
import time

import numpy as np

from encoder import get_encoder

BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"  # or env GPT2_BASE_URL
DATA = "model.ckpt.data-00000-of-00001"
META = "model.ckpt.meta"
OPENAI_FILES = (
    *("checkpoint", "encoder.json", "hparams.json"),
    *(DATA, "model.ckpt.index", META, "vocab.bpe"),
)
HF_FILES = ("config.json", "vocab.json", "merges.txt", "model.safetensors")
HPARAMS = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
HF_HPARAMS = ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")

_HASHES = (  # of 124M, in the order of OPENAI_FILES
    "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb",
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318",
    "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118",
    "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687",
    "4668c448fa11531fd6700460487f73e82d3272960cea942252f8744bf225c77b",
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
)
_VOCAB = {"encoder.json": (1042301, _HASHES[1]), "vocab.bpe": (456318, _HASHES[6])}
_BYTES = (77, 1042301, 90, 497759232, 5215, 471155, 456318)
PUBLISHED = {  # model_size: {file: (bytes, SHA-256)}, as far as they were published
    "124M": dict(zip(OPENAI_FILES, zip(_BYTES, _HASHES, strict=True), strict=True)),
    "355M": _VOCAB
    | {"checkpoint": (77, None), "hparams.json": (91, None), DATA: (1419292672, None)}
    | {"model.ckpt.index": (10399, None), META: (926519, None)},
    "774M": _VOCAB | {DATA: (3096120320, None)},
    "1558M": _VOCAB | {DATA: (6230444800, None)},
}
PAUSES = (0.5, 1, 2, 4)  # seconds before the second, third, ... try
TIMEOUT = (5, 60)  # seconds to connect, and to wait for the next bytes

COMPUTED = {  # what config.json may say, the default first; n_inner apart
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # one formula
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy knows no bfloat16


def _continue(url, part, size):
    """Fetch into the file `part` what it still lacks of `url`; `size` is None if not known."""
    import requests
    from tqdm import tqdm

    have = os.path.getsize(part) if os.path.exists(part) else 0
    if have and have == size:
        return
    # "identity": a compressed answer could neither be resumed nor compared with its length.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        where, _, total = answer.headers.get("Content-Range", "").partition("/")
        if answer.status_code == 416 and size is None and total == str(have):
            return  # whole already: the last run ended just before it could rename it
        if answer.status_code == 416 or (have and size and have > size):
            os.remove(part)
            raise requests.ConnectionError(f"cannot go on after byte {have}")
        answer.raise_for_status()
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise OSError(f"{url} is a web page, not a model file: is the address right?")
        if answer.status_code != 206 or not where.startswith(f"bytes {have}-"):
            have, total = 0, answer.headers.get("Content-Length", "")
        if not total.isdigit() and size is None:
            raise OSError(f"{url}: the server does not tell the length, so it cannot be checked")
        total = int(total) if total.isdigit() else size
        if total != (size or total):
            raise OSError(f"{url} has {total} bytes where the published file has {size}")
        bar = {"desc": os.path.basename(url), "unit": "B", "unit_scale": True, "disable": None}
        os.makedirs(os.path.dirname(part) or ".", exist_ok=True)
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(total=total, initial=have, **bar) as progress,
        ):
            for chunk in answer.iter_content(1 << 16):
                progress.update(file.write(chunk))
    if os.path.getsize(part) != total:
        raise requests.ConnectionError(f"{os.path.getsize(part)} of {total} bytes came")
