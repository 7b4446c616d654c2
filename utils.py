"""Model folders: fetch one, read one, write one.

A GPT-2 is a folder `models_dir/model_size/` in OpenAI's layout (a TensorFlow checkpoint) or in
Hugging Face's (a safetensors file). OpenAI's is converted once, by writing the other next to it;
after that TensorFlow is not needed, and weights are mapped into memory as they lie on the disk.
Left out: weights in several files or in pickles, configurations other than `COMPUTED`.
Sources: github.com/openai/gpt-2, github.com/huggingface/safetensors.
"""

import hashlib
import json
import mmap
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from encoder import get_encoder

BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"  # or env GPT2_BASE_URL
DATA = "model.ckpt.data-00000-of-00001"
TF_FILES = {  # SHA-256 of those of 124M
    "checkpoint": "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "hparams.json": "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318",
    DATA: "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118",
    "model.ckpt.index": "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687",
    "model.ckpt.meta": "4668c448fa11531fd6700460487f73e82d3272960cea942252f8744bf225c77b",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
PUBLISHED = {  # bytes of the same files, as far as they are known
    "124M": dict(zip(TF_FILES, (77, 1042301, 90, 497759232, 5215, 471155, 456318), strict=True)),
    "355M": dict(zip(TF_FILES, (77, 1042301, 91, 1419292672, 10399, 926519, 456318), strict=True)),
    "774M": {"encoder.json": 1042301, DATA: 3096120320, "vocab.bpe": 456318},
    "1558M": {"encoder.json": 1042301, DATA: 6230444800, "vocab.bpe": 456318},
}
PAUSES = (0.5, 1, 2, 4)  # seconds before the second, third, ... try
HF_FILES = ("config.json", "vocab.json", "merges.txt", "model.safetensors")
HPARAMS = {"n_vocab": "vocab_size", "n_ctx": "n_positions"}  # OpenAI's names: Hugging Face's
HPARAMS |= {name: name for name in ("n_embd", "n_head", "n_layer")}
COMPUTED = {  # what config.json may say, the default first
    "model_type": ("gpt2",), "layer_norm_epsilon": (1e-5,), "tie_word_embeddings": (True,),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # one formula
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}  # fmt: skip
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy knows no bfloat16


def parameter_shapes(hparams):
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
    return {
        "wte": (hparams["n_vocab"], d),
        "wpe": (hparams["n_ctx"], d),
        "blocks": [block] * hparams["n_layer"],
        "ln_f": norm,
    }


def map_params(function, tree, name=""):
    """The same dicts and lists, with function(name, leaf) in place of each leaf.

    >>> map_params(lambda name, shape: name, {"ln_f": {"g": (3,)}, "blocks": [{"w": (3, 3)}]})
    {'ln_f': {'g': 'ln_f.g'}, 'blocks': [{'w': 'blocks.0.w'}]}
    """
    if isinstance(tree, dict):
        return {key: map_params(function, child, f"{name}{key}.") for key, child in tree.items()}
    if isinstance(tree, list):
        return [map_params(function, child, f"{name}{i}.") for i, child in enumerate(tree)]
    return function(name.removesuffix("."), tree)


def named(tree):
    """{name: leaf} of nested parameters, shapes or gradients, in the order of the nest.

    >>> named({"ln_f": {"g": 1, "b": 2}, "blocks": [{"w": 3}]})
    {'ln_f.g': 1, 'ln_f.b': 2, 'blocks.0.w': 3}
    """
    leaves = {}
    map_params(leaves.__setitem__, tree)
    return leaves


def _size(path):
    return path.stat().st_size if path.is_file() else -1


def _missing(model_dir, files, model_size=None):
    """Those of `files` that are not there, or not of the size published for `model_size`."""
    sizes = PUBLISHED.get(model_size, {})
    return [f for f in files if (n := _size(Path(model_dir, f))) < 0 or n != sizes.get(f, n)]


def _continue(url, part, size):
    """Append to the file `part` what it lacks of `url`, and return the length of the whole."""
    import requests
    from tqdm import tqdm

    have = max(_size(part), 0)
    # "identity": a compressed answer could not be resumed, nor compared with its length.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=(5, 60)) as answer:
        kind = answer.headers.get("Content-Type", "")
        first, _, total = answer.headers.get("Content-Range", "").partition("/")
        if answer.status_code == 416:  # `part` is as long as the file, or longer
            part.unlink(missing_ok=True)
        if answer.status_code == 200:  # all of it, even if we asked for the end
            have, first, total = 0, "bytes 0-", answer.headers.get("Content-Length", str(size))
        fits = total.isdigit() and size in (None, int(total)) and first.startswith(f"bytes {have}-")
        if not fits or kind.startswith("text/html"):
            found = f"{answer.status_code}, {kind}, {total or '?'} bytes, not {size or 'a file'}"
            later = answer.status_code == 416 or answer.status_code >= 500
            raise (requests.ConnectionError if later else OSError)(f"{url}: {found}")
        part.parent.mkdir(parents=True, exist_ok=True)
        bar = tqdm(None, part.stem, int(total), initial=have, unit="B", unit_scale=1, disable=None)
        with open(part, "ab" if have else "wb") as file, bar:
            for chunk in answer.iter_content(1 << 14):
                bar.update(file.write(chunk))
    if _size(part) != int(total):
        raise requests.ConnectionError(f"{_size(part)} of {total} bytes came")
    return int(total)


def _fetch(url, path, size):
    """Fetch `url` to `path` by way of `path`.part, trying again for as long as there is hope."""
    sha256 = TF_FILES[path.name] if size in PUBLISHED["124M"].values() else None
    part, tries, furthest, reached = Path(f"{path}.part"), 0, 0, False
    while _size(part) != size:
        try:
            size = _continue(url, part, size)
        except OSError as error:  # as are the exceptions of requests
            if error.errno:
                raise OSError(f"cannot write {part}: {error.strerror}") from None
            if type(error) is OSError or isinstance(error, ValueError):  # no matter of time
                raise
            tries, furthest = (1, _size(part)) if _size(part) > furthest else (tries + 1, furthest)
            reason = getattr(error.args[0], "reason", error)  # urllib3's, if it did not connect
            reached |= reason is error or type(error).__name__ == "SSLError"
            if tries > (len(PAUSES) if reached else 1):
                kind = OSError if reached else ConnectionError
                raise kind(f"cannot fetch {url}: {reason}{', run again' * reached}") from None
            time.sleep(PAUSES[tries - 1])
    wrong = sha256 and hashlib.sha256(np.memmap(part, mode="r")).hexdigest() != sha256
    if wrong or (path.suffix == ".json" and not part.read_bytes().lstrip().startswith(b"{")):
        part.unlink()
        raise OSError(f"{url} is not the published file, or no JSON: it was thrown away")
    if path.exists():
        path.replace(f"{path}.old")  # of a wrong size, yet perhaps somebody's work
    part.replace(path)


def download_gpt2_files(model_size, model_dir):
    """Fetch what `model_dir` lacks of OpenAI's model `model_size` ("124M", "355M", ...).

    From `BASE_URL` or env GPT2_BASE_URL. A file is called `<name>.part`, and resumed, until it is
    whole by published size and hash, or by the length that the server tells. Raises OSError: for
    an unknown model FileNotFoundError, for a server out of reach the built-in ConnectionError.
    """
    base = os.environ.get("GPT2_BASE_URL", "").rstrip("/")
    missing = _missing(model_dir, TF_FILES, model_size)
    if missing and not base and model_size not in PUBLISHED:
        found = f"has {os.listdir(model_dir)}" if os.path.isdir(model_dir) else "is not there"
        lacks = f"{_missing(model_dir, HF_FILES)} of Hugging Face's layout, {missing} of OpenAI's"
        raise FileNotFoundError(f"{model_dir} {found}, lacks {lacks}; we fetch {[*PUBLISHED]}")
    for file in missing:
        size = PUBLISHED.get(model_size, {}).get(file)
        _fetch(f"{base or BASE_URL}/{model_size}/{file}", Path(model_dir, file), size)


def _read_config(path, names):
    """-> the JSON object in the file, and the five numbers `names` in it as hparams."""
    try:
        config = json.loads(path.read_bytes())
        n = [config[name] for name in names]
        if {*map(type, n)} != {int} or min(n) < 1 or n[2] % n[3]:
            raise ValueError(f"{[*names]} are {n}; n_embd should be a multiple of n_head")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not (or not all of) a configuration: {error!r}") from None
    return config, dict(zip(HPARAMS, n, strict=True))


def _map(function, tree, name="model"):
    """The same dicts and lists, with function(OpenAI's name, leaf) in place of each leaf."""
    if isinstance(tree, dict):
        return {key: _map(function, child, f"{name}/{key}") for key, child in tree.items()}
    if isinstance(tree, list):  # model/blocks -> model/h0, model/h1, ...
        return [_map(function, child, f"model/h{i}") for i, child in enumerate(tree)]
    return function(name, tree)


def _hf_name(name):
    """Hugging Face's name for OpenAI's.

    >>> _hf_name("model/h11/attn/c_attn/w"), _hf_name("model/wte")
    ('h.11.attn.c_attn.weight', 'wte.weight')
    """
    *scope, leaf = name.replace("model/h", "h/").removeprefix("model/").split("/")
    leaf = {"g": "weight", "w": "weight", "b": "bias"}.get(leaf, leaf + ".weight")
    return ".".join([*scope, leaf])


def _nest(hparams, file, found, rename, read):
    """The parameters of a file, nested as `gpt2` takes them; `found` is {name: shape} in it."""
    d, n_layer = hparams["n_embd"], hparams["n_layer"]
    norm = {"g": (d,), "b": (d,)}
    attn = {"c_attn": {"w": (d, 3 * d), "b": (3 * d,)}, "c_proj": {"w": (d, d), "b": (d,)}}
    mlp = {"c_fc": {"w": (d, 4 * d), "b": (4 * d,)}, "c_proj": {"w": (4 * d, d), "b": (d,)}}
    blocks = [{"ln_1": norm, "attn": attn, "ln_2": norm, "mlp": mlp}] * n_layer
    tables = {"wte": (hparams["n_vocab"], d), "wpe": (hparams["n_ctx"], d)}

    def get(name, shape):
        name = rename(name)
        if tuple(found.get(name, ())) not in (shape, (1, *shape)):  # OpenAI: [1, n_in, n_out]
            raise ValueError(f"{file}: {name} should be {shape}, is {found.get(name, 'missing')}")
        try:
            return np.require(read(name), np.float32, "A").reshape(shape)
        except Exception as error:
            raise ValueError(f"{file}: cannot read {name}: {error}") from None

    if (more := rename(f"model/h{n_layer}/ln_1/g")) in found:
        raise ValueError(f"{file}: n_layer is {n_layer}, but there is {more}")
    return _map(get, {**tables, "blocks": blocks, "ln_f": norm})


def load_gpt2_params_from_tf_ckpt(tf_ckpt_path, hparams):
    """OpenAI's checkpoint ("models/124M/model.ckpt") as nested float32 arrays, w [n_in, n_out].

    Raises ImportError without TensorFlow, ValueError for what is broken or not as in `hparams`.
    """
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # TensorFlow's C++ code logs whatever it is told
    try:
        import tensorflow as tf

        reader = tf.train.load_checkpoint(tf_ckpt_path)
        shapes = reader.get_variable_to_shape_map()
    except ImportError as error:
        raise ImportError(f"{error}; pip install tensorflow, or use a safetensors folder") from None
    except Exception as error:
        raise ValueError(f"{tf_ckpt_path} is not (or not all of) a checkpoint: {error}") from None
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    return _nest(hparams, tf_ckpt_path, shapes, str, reader.get_tensor)


def _read_hf(model_dir):
    """-> hparams, params, metadata of a folder in Hugging Face's layout."""
    config, hparams = _read_config(Path(model_dir, "config.json"), HPARAMS.values())
    for key, values in {**COMPUTED, "n_inner": (None, 4 * hparams["n_embd"])}.items():
        if config.get(key, values[0]) not in values:
            raise ValueError(f"{model_dir}: {key} is {config[key]!r}; we can compute {values}")
    file = Path(model_dir, "model.safetensors")
    try:  # it holds: length of the header [8 bytes], header (JSON), bytes of the tensors
        with open(file, "rb") as opened:
            data = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8:start]).replace(b'"transformer.', b'"'))
        metadata = header.pop("__metadata__", {})
        shapes = {name: tensor["shape"] for name, tensor in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not (or not all of) a safetensors file: {error}") from None

    def read(name):
        dtype, (begin, end) = header[name]["dtype"], header[name]["data_offsets"]
        array = np.frombuffer(data[start + begin : start + end], DTYPES[dtype])
        return (array.astype("u4") << 16).view("f4") if dtype == "BF16" else array

    return hparams, _nest(hparams, file, shapes, _hf_name, read), metadata


def save_model_folder(model_dir, encoder, hparams, params, source=None, dtype=np.float32):
    """Write a model in Hugging Face's layout: `transformers` can read the folder, and so can we.

    `dtype` on disk: float32 or float16. `source` goes into the metadata. All four files are
    first written elsewhere: half of them cannot be taken for a whole model.
    """
    from tempfile import TemporaryDirectory

    config = {k: v[0] for k, v in COMPUTED.items()} | {HPARAMS[k]: n for k, n in hparams.items()}
    config |= {"architectures": ["GPT2LMHeadModel"], "torch_dtype": np.dtype(dtype).name}
    config |= {"bos_token_id": encoder.eot, "eos_token_id": encoder.eot, "n_ctx": hparams["n_ctx"]}
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in encoder.bpe_ranks)
    tensors, header, end = {}, {"__metadata__": {"format": "pt", "openai_sha256": source or ""}}, 0
    _map(lambda name, leaf: tensors.update({_hf_name(name): np.asarray(leaf, dtype, "C")}), params)
    for name, array in tensors.items():
        header[name] = {"dtype": f"F{8 * array.itemsize}", "shape": array.shape}
        header[name]["data_offsets"] = [end, end := end + array.nbytes]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(model_dir, exist_ok=True)
    with TemporaryDirectory(prefix="unfinished-", dir=model_dir) as temporary:
        Path(temporary, "config.json").write_text(json.dumps(config, indent=2))
        Path(temporary, "vocab.json").write_text(json.dumps(encoder.encoder))
        Path(temporary, "merges.txt").write_text(merges, encoding="utf-8")
        with open(Path(temporary, "model.safetensors"), "wb") as file:
            file.writelines([len(text).to_bytes(8, "little"), text, *tensors.values()])
        Path(model_dir, "model.safetensors").unlink(missing_ok=True)
        for name in HF_FILES:
            Path(temporary, name).replace(Path(model_dir, name))


def load_encoder_hparams_and_params(model_size, models_dir):
    """-> encoder, hparams, params of the model in `models_dir/model_size`, downloaded if need be.

    hparams: n_vocab, n_ctx, n_embd, n_head, n_layer. params: nested dicts of float32 arrays, by
    preference read-only views of the file. Raises ValueError, OSError, ImportError, in one line.
    """
    if model_size in ("", ".", "..") or set(model_size) & set("/\\:\0"):
        raise ValueError(f"model_size should name a folder in {models_dir}, not {model_size!r}")
    model_dir, source = os.path.join(models_dir, model_size), None
    ready = not _missing(model_dir, HF_FILES)
    if not ready:
        if model_size in PUBLISHED and not find_spec("tensorflow"):  # or all would come in vain
            raise ImportError("no TensorFlow: pip install tensorflow, or use a safetensors folder")
        download_gpt2_files(model_size, model_dir)
    if not _missing(model_dir, TF_FILES, model_size):  # the index has a checksum per tensor
        small = (Path(model_dir, file).read_bytes() for file in TF_FILES if file != DATA)
        source = hashlib.sha256(b"".join(small)).hexdigest()
    encoder = get_encoder(model_size, models_dir)
    if ready:
        hparams, params, metadata = _read_hf(model_dir)
        ready = not source or metadata.get("openai_sha256") in (None, "", source)
    if not ready:
        _, hparams = _read_config(Path(model_dir, "hparams.json"), HPARAMS)
        params = load_gpt2_params_from_tf_ckpt(os.path.join(model_dir, "model.ckpt"), hparams)
        try:
            save_model_folder(model_dir, encoder, hparams, params, source)
        except OSError as error:
            print(f"{model_dir}: could not keep the converted weights: {error}", file=sys.stderr)
    return encoder, hparams, params
