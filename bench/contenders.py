"""The programs that bench.compare compares, each brought to one form.

A contender is made from a model folder. `stream(ids, n_tokens)` yields the new tokens of one text,
greedily; `batch(prompts, n_tokens)` makes those of several texts, and is None where a program has
no such thing.

A process measures one contender. The project's own modules come from the checkout that is being
measured, this one or another, so they are imported by `project_module`; the packages of the others
are imported by whoever needs them.
"""

import functools
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass
class Generator:
    """A contender with its model loaded."""

    stream: Callable[[list[int], int], Iterator]
    batch: Callable[[list[list[int]], int], object] | None = None
    has_cache: bool = True  # False: each token reads the whole text again


def use_checkout(checkout: str | Path) -> None:
    """Import the project's own modules from this folder from now on, and from no other."""
    sys.path[0] = str(checkout)  # where `python -m` has the folder that it was started in


def project_module(name: str) -> ModuleType:
    """The project's own module of that name, from the checkout in use."""
    module = importlib.import_module(name)
    if Path(module.__file__).resolve().parent != Path(sys.path[0]).resolve():
        raise ImportError(f"{name} comes from {module.__file__}, not from {sys.path[0]}")
    return module


def load_model(folder: Path) -> tuple:
    """-> encoder, hparams, params of a model folder, by the checkout in use"""
    return project_module("utils").load_encoder_hparams_and_params(folder.name, str(folder.parent))


# ---------------------------------------------------------------- this project


def gpt2_py(folder: Path, n_threads: int) -> Generator:
    gpt2 = project_module("gpt2")
    _, hparams, params = load_model(folder)
    n_head = hparams["n_head"]

    def stream(ids, n_tokens):
        return gpt2.generate_stream(ids, params, n_head, n_tokens, lookup=False)

    def batch(prompts, n_tokens):
        if hasattr(gpt2, "generate_side_by_side"):
            return list(gpt2.generate_side_by_side(prompts, params, n_head, n_tokens))
        # an older checkout
        windows = [gpt2.Window(ids, params, n_head) for ids in prompts]
        return list(project_module("fast_generation").side_by_side(windows, n_tokens))

    return Generator(stream, batch)


def gpt2_pico_py(folder: Path, n_threads: int) -> Generator:
    gpt2_pico = project_module("gpt2_pico")
    _, hparams, params = load_model(folder)

    def stream(ids, n_tokens):
        text = list(ids)
        for _ in range(n_tokens):
            new_id = gpt2_pico.generate(list(text), params, hparams["n_head"], 1)[-1]
            text.append(new_id)
            yield new_id

    return Generator(stream, has_cache=False)


# ---------------------------------------------------------------- others


def transformers(folder: Path, n_threads: int) -> Generator:
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(n_threads)
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)

    @torch.inference_mode()
    def steps(prompts, n_tokens):
        past = None
        ids = torch.tensor(prompts)  # [n_texts, n_seq], later [n_texts, 1]
        for _ in range(n_tokens):
            out = model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
            past = out.past_key_values
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            yield ids

    def stream(ids, n_tokens):
        return steps([ids], n_tokens)

    def batch(prompts, n_tokens):
        return list(steps(prompts, n_tokens))

    return Generator(stream, batch)


def llama_cpp(folder: Path, n_threads: int, kind: str) -> Generator:
    from llama_cpp import Llama, llama_cpp

    if kind == "Q8_0":  # the AMX kernels of version 0.3.36 crash on this file
        defaults = llama_cpp.llama_model_default_params()
        defaults.use_extra_bufts = False
        llama_cpp.llama_model_default_params = lambda: defaults
    path = write_gguf(folder, kind)
    threads = {"n_threads": n_threads, "n_threads_batch": n_threads}
    model = Llama(str(path), n_ctx=1024, verbose=False, **threads)

    def stream(ids, n_tokens):
        model.reset()
        for new_id, _ in zip(model.generate(ids, temp=0.0), range(n_tokens), strict=False):
            yield new_id

    return Generator(stream)


def write_gguf(folder: Path, kind: str) -> Path:
    """The model in `folder` as a GGUF file, which llama.cpp reads; written once.

    `kind` is that of the matrices: F32, F16 or Q8_0. All else is float32.
    """
    import gguf

    path = folder / f"{kind}.gguf"
    if path.exists():
        return path
    encoder, hparams, params = load_model(folder)
    unfinished = path.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(str(unfinished), "gpt2")
    writer.add_context_length(hparams["n_ctx"])
    writer.add_embedding_length(hparams["n_embd"])
    writer.add_feed_forward_length(4 * hparams["n_embd"])
    writer.add_block_count(hparams["n_layer"])
    writer.add_head_count(hparams["n_head"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(encoder.encoder))
    writer.add_token_types([gguf.TokenType.NORMAL] * len(encoder.encoder))
    writer.add_token_merges([" ".join(pair) for pair in encoder.bpe_ranks])
    writer.add_eos_token_id(encoder.eot)
    for name, (array, is_matrix) in gguf_tensors(params).items():
        kind_of_tensor = gguf.GGMLQuantizationType[kind if is_matrix else "F32"]
        data = gguf.quants.quantize(array, kind_of_tensor)
        writer.add_tensor(name, data, raw_dtype=kind_of_tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.replace(path)
    return path


def gguf_tensors(params: dict) -> dict:
    """{GGUF's name: (array, whether it is one of the large matrices)}; those are [n_out, n_in]."""
    import numpy as np

    tensors = {}

    def add_vector(name, array):
        tensors[name] = np.array(array, np.float32), False

    def add_matrix(name, array):
        tensors[name] = np.ascontiguousarray(array, np.float32), True

    add_matrix("token_embd.weight", params["wte"])
    add_matrix("output.weight", params["wte"])
    add_vector("position_embd.weight", params["wpe"])
    add_vector("output_norm.weight", params["ln_f"]["g"])
    add_vector("output_norm.bias", params["ln_f"]["b"])
    for i, block in enumerate(params["blocks"]):
        for name, norm in (("attn_norm", block["ln_1"]), ("ffn_norm", block["ln_2"])):
            add_vector(f"blk.{i}.{name}.weight", norm["g"])
            add_vector(f"blk.{i}.{name}.bias", norm["b"])
        projections = {
            "attn_qkv": block["attn"]["c_attn"],
            "attn_output": block["attn"]["c_proj"],
            "ffn_up": block["mlp"]["c_fc"],
            "ffn_down": block["mlp"]["c_proj"],
        }
        for name, projection in projections.items():
            add_matrix(f"blk.{i}.{name}.weight", projection["w"].T)
            add_vector(f"blk.{i}.{name}.bias", projection["b"])
    return tensors


def ctranslate2(folder: Path, n_threads: int, kind: str) -> Generator:
    import ctranslate2 as ct2

    path = folder / f"ctranslate2-{kind}"
    if not path.exists():
        converter = ct2.converters.TransformersConverter(str(folder))
        converter.convert(str(path), quantization=kind)
    model = ct2.Generator(str(path), intra_threads=n_threads, compute_type=kind)
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    names = {i: token for token, i in vocabulary.items()}
    greedy = {"sampling_topk": 1, "end_token": []}

    def stream(ids, n_tokens):
        return model.generate_tokens([names[i] for i in ids], max_length=n_tokens, **greedy)

    def batch(prompts, n_tokens):
        tokens = [[names[i] for i in ids] for ids in prompts]
        return model.generate_batch(
            tokens, max_length=n_tokens, include_prompt_in_result=False, **greedy
        )

    return Generator(stream, batch)


# ---------------------------------------------------------------- their names


@dataclass
class Package:
    """What has to be installed for a contender."""

    name: str  # for pip
    module: str

    def is_missing(self) -> bool:
        return importlib.util.find_spec(self.module) is None


@dataclass
class Contender:
    """A row of the tables."""

    make: Callable[[Path, int], Generator]
    packages: tuple[Package, ...] = ()


OURS, PICO, BEFORE, TRANSFORMERS = "gpt2.py", "gpt2_pico.py", "before", "transformers"
TORCH = (Package("transformers", "transformers"), Package("torch", "torch"))
LLAMA_CPP = (Package("llama-cpp-python", "llama_cpp"), Package("gguf", "gguf"))
CTRANSLATE2 = (Package("ctranslate2", "ctranslate2"), *TORCH)  # it converts with these
CONTENDERS = {
    OURS: Contender(gpt2_py),
    PICO: Contender(gpt2_pico_py),
    TRANSFORMERS: Contender(transformers, TORCH),
    "llama.cpp-float32": Contender(functools.partial(llama_cpp, kind="F32"), LLAMA_CPP),
    "llama.cpp-float16": Contender(functools.partial(llama_cpp, kind="F16"), LLAMA_CPP),
    "llama.cpp-q8_0": Contender(functools.partial(llama_cpp, kind="Q8_0"), LLAMA_CPP),
    "ctranslate2-float32": Contender(functools.partial(ctranslate2, kind="float32"), CTRANSLATE2),
    "ctranslate2-int8": Contender(functools.partial(ctranslate2, kind="int8"), CTRANSLATE2),
}
