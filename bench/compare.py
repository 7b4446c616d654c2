"""gpt2.py beside its peers: one set of random 124M weights, the same prompts, the same threads.

    pip install -r bench/requirements.txt
    python bench/compare.py

Every contender runs each task in a process of its own, the contenders in turn, and the medians are
printed with the machine and with how fast its memory can be read, which is what decoding waits for.
Writes docs/speed.svg. A peer that is not installed is left out by name.
"""

import argparse
import importlib.util
import inspect
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from measure import LARGER, ROOT, alternate, cores, machine, random_model
from whole_run import commands

from utils import load_encoder_hparams_and_params

N_VOCAB, ROUNDS = 50257, 3
SHORT = np.random.default_rng(0).integers(0, N_VOCAB, 10).tolist()
LONG = np.random.default_rng(1).integers(0, N_VOCAB, 1000).tolist()


def timed(ids):
    """Seconds at which each of an iterator's items comes, from now."""
    start = time.perf_counter()
    return [time.perf_counter() - start for _ in ids]


def step(seconds):
    """The median time between two items, the first (it reads the prompt) left out."""
    return statistics.median(np.diff(seconds))


# ---------------------------------------------------------------- contenders
# Each is a function of a folder: -> stream(ids, n_tokens), an iterator of new ids, and
# batch(prompts, n_tokens), which makes them all, or None.


def ours(folder):
    import fast_generation
    import gpt2

    _, hparams, params = load_encoder_hparams_and_params(folder.name, str(folder.parent))
    n_head = hparams["n_head"]

    def stream(ids, n_tokens):
        return gpt2.generate_stream(ids, params, n_head, n_tokens, lookup=False)

    def batch(prompts, n_tokens):
        windows = [gpt2.Window(ids, params, n_head) for ids in prompts]
        return list(fast_generation.side_by_side(windows, n_tokens))

    return stream, batch


def pico(folder):
    import gpt2_pico

    _, hparams, params = load_encoder_hparams_and_params(folder.name, str(folder.parent))

    def stream(ids, n_tokens):
        for _ in range(n_tokens):
            ids = ids + gpt2_pico.generate(ids, params, hparams["n_head"], 1)
            yield ids[-1]

    return stream, None


def transformers(folder):
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(cores())
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)

    @torch.inference_mode()
    def steps(ids, n_tokens):
        past, ids = None, torch.tensor(ids)
        for _ in range(n_tokens):
            out = model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
            past, ids = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
            yield ids

    return lambda ids, n: steps([ids], n), lambda prompts, n: list(steps(prompts, n))


def llama_cpp(folder, kind):
    from llama_cpp import Llama, llama_cpp

    if kind == "Q8_0":  # the AMX kernels of version 0.3.36 crash on this file
        defaults = llama_cpp.llama_model_default_params()
        defaults.use_extra_bufts = False
        llama_cpp.llama_model_default_params = lambda: defaults
    path = str(write_gguf(folder, kind))
    model = Llama(path, n_ctx=1024, n_threads=cores(), n_threads_batch=cores(), verbose=False)

    def stream(ids, n_tokens):
        model.reset()
        for new_id, _ in zip(model.generate(ids, temp=0.0), range(n_tokens), strict=False):
            yield new_id

    return stream, None


def ctranslate2(folder, kind):
    import ctranslate2 as ct2

    path = folder / f"ctranslate2-{kind}"
    if not path.exists():
        converter = ct2.converters.TransformersConverter(str(folder))
        converter.convert(str(path), quantization=kind)
    model = ct2.Generator(str(path), intra_threads=cores(), compute_type=kind)
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

    return stream, batch


CONTENDERS = {  # name: (package, how to make it)
    "gpt2.py": ("numpy", ours),
    "gpt2_pico.py": ("numpy", pico),
    "transformers float32": ("transformers", transformers),
    "llama.cpp float32": ("llama_cpp", lambda folder: llama_cpp(folder, "F32")),
    "llama.cpp float16": ("llama_cpp", lambda folder: llama_cpp(folder, "F16")),
    "llama.cpp q8_0": ("llama_cpp", lambda folder: llama_cpp(folder, "Q8_0")),
    "ctranslate2 float32": ("ctranslate2", lambda folder: ctranslate2(folder, "float32")),
    "ctranslate2 int8": ("ctranslate2", lambda folder: ctranslate2(folder, "int8")),
}


def write_gguf(folder, kind):
    """The weights of `folder` as a GGUF file, which llama.cpp reads, written once: -> its path"""
    import gguf

    path = folder / f"{kind}.gguf"
    if path.exists():
        return path
    encoder, hparams, params = load_encoder_hparams_and_params(folder.name, str(folder.parent))
    writer = gguf.GGUFWriter(str(path), "gpt2")
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

    def add(name, array, wide=False):
        quantization = gguf.GGMLQuantizationType.F32
        if wide:
            array = np.ascontiguousarray(array.T)  # [n_out, n_in]
            quantization = getattr(gguf.GGMLQuantizationType, kind)
        data = gguf.quants.quantize(np.array(array, np.float32), quantization)
        writer.add_tensor(name, data, raw_dtype=quantization)

    add("token_embd.weight", params["wte"].T, wide=True)
    add("output.weight", params["wte"].T, wide=True)
    add("position_embd.weight", params["wpe"])
    add("output_norm.weight", params["ln_f"]["g"])
    add("output_norm.bias", params["ln_f"]["b"])
    for i, block in enumerate(params["blocks"]):
        for norm, name in (("ln_1", "attn_norm"), ("ln_2", "ffn_norm")):
            add(f"blk.{i}.{name}.weight", block[norm]["g"])
            add(f"blk.{i}.{name}.bias", block[norm]["b"])
        attn, mlp = block["attn"], block["mlp"]
        linears = {"attn_qkv": attn["c_attn"], "attn_output": attn["c_proj"]}
        linears |= {"ffn_up": mlp["c_fc"], "ffn_down": mlp["c_proj"]}
        for name, linear in linears.items():
            add(f"blk.{i}.{name}.weight", linear["w"], wide=True)
            add(f"blk.{i}.{name}.bias", linear["b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ---------------------------------------------------------------- tasks


def decode(stream, batch):
    """Seconds for one token after a prompt of 10, the median of 64."""
    return step(timed(stream(SHORT, 65)))


def decode_slowly(stream, batch):
    return step(timed(stream(SHORT, 4)))


def decode_at_1000(stream, batch):
    return step(timed(stream(LONG, 16)))


def prefill(stream, batch):
    """Seconds to the first token after a prompt of 512, the second time."""
    next(iter(stream(LONG[:512], 1)))
    return timed(stream(LONG[:512], 1))[0]


def batch_of(n_texts):
    def task(stream, batch):
        """Seconds for one token in each of n texts."""
        prompts = np.random.default_rng(2).integers(0, N_VOCAB, (n_texts, 10)).tolist()
        times = []
        for n_tokens in (1, 17):
            start = time.perf_counter()
            batch(prompts, n_tokens)
            times.append(time.perf_counter() - start)
        return (times[1] - times[0]) / 16

    return task


TASKS = {
    "decode": decode,
    "position 1000": decode_at_1000,
    "prefill 512": prefill,
    "8 texts": batch_of(8),
    "32 texts": batch_of(32),
}


def library_code(encoder):
    """The first 120 ids of each longer function and class of three modules of the library."""
    for module in (argparse, logging, tarfile):
        for _, member in sorted(inspect.getmembers(module)):
            own = getattr(member, "__module__", None) == module.__name__
            if own and (inspect.isfunction(member) or inspect.isclass(member)):
                ids = encoder.encode(inspect.getsource(member))
                if len(ids) > 120:
                    yield ids[:120]


def knowing(params, paragraph):
    """`params` changed into a model that goes through `paragraph` (ids) again and again.

    Weights that are random repeat nothing. So all blocks are silenced but for the last one's
    feed-forward layer, which turns each id of the paragraph into the next; they cost the same time.
    """
    from gpt2 import layer_norm

    blocks = [
        {**block, "attn": {**block["attn"], "c_proj": zeros(block["attn"]["c_proj"])}}
        | {"mlp": {**block["mlp"], "c_proj": zeros(block["mlp"]["c_proj"])}}
        for block in params["blocks"]
    ]
    here, following = params["wte"][paragraph], params["wte"][paragraph[1:] + paragraph[:1]]
    keys = layer_norm(here, **blocks[-1]["ln_2"])
    c_fc, c_proj = zeros(params["blocks"][-1]["mlp"]["c_fc"]), blocks[-1]["mlp"]["c_proj"]
    c_fc["w"][:, : len(keys)] = 10 * (keys / np.sum(keys * keys, axis=1, keepdims=True)).T
    c_fc["b"] -= 5
    c_proj["w"][: len(keys)] = following
    blocks[-1]["mlp"] = {"c_fc": c_fc, "c_proj": c_proj}
    return {**params, "wpe": np.zeros_like(params["wpe"]), "blocks": blocks}


def zeros(linear):
    return {name: np.zeros_like(array) for name, array in linear.items()}


def guessing(folder):
    """Print tokens per second with and without guesses (`lookup`), for texts of three kinds."""
    encoder, hparams, small = load_encoder_hparams_and_params("python", str(ROOT / "models"))
    _, shape, large = load_encoder_hparams_and_params(folder.name, str(folder.parent))
    paragraph = LONG[:60]
    print("\nguesses from the text: tokens per second without, with, and how many times as fast")
    own = [both_ways(ids, small, hparams["n_head"], 1) for ids in library_code(encoder)]
    own.sort(key=lambda seconds: seconds[0] / seconds[1])  # the least gain first
    tenth = len(own) // 10
    cases = {
        f"bundled model, {len(own)} pieces of code": np.mean(own, axis=0),
        "the tenth of them that gains most": np.mean(own[-tenth:], axis=0),
        "the tenth of them that gains least": np.mean(own[:tenth], axis=0),
        "124M, a paragraph three times": both_ways(
            3 * paragraph, knowing(large, paragraph), shape["n_head"]
        ),
        "124M, text that does not repeat": both_ways(SHORT, large, shape["n_head"]),
    }
    for name, (plain, guessed) in cases.items():
        print(f"  {name:38} {1 / plain:7.1f} {1 / guessed:7.1f} {plain / guessed:6.2f}")


def both_ways(ids, params, n_head, n_rounds=ROUNDS):
    """Median seconds for a token of the 100 after the first, without guesses and with them."""
    import gpt2

    seconds = {False: [], True: []}
    for lookup in n_rounds * [False, True]:
        times = timed(gpt2.generate_stream(ids, params, n_head, 101, lookup=lookup))
        seconds[lookup].append((times[-1] - times[0]) / 100)
    return statistics.median(seconds[False]), statistics.median(seconds[True])


def larger_models(models_dir, names):
    """Print how fast the larger models are, one after the other, where memory takes them twice."""
    for size, shape in LARGER.items():
        n_bytes = 4 * shape["n_embd"] * (12 * shape["n_layer"] * shape["n_embd"] + N_VOCAB)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if free < 2.5 * n_bytes or shutil.disk_usage(models_dir).free < 1.1 * n_bytes:
            print(f"\n{size}: left out, too large for this machine")
            continue
        folder = Path(models_dir) / random_model(models_dir, size)
        tasks = "decode", "prefill 512"
        print_table(measure(str(folder), names, tasks), names, tasks, f"{size}, ")
        shutil.rmtree(folder)


def print_table(found, names, tasks, size=""):
    for task in tasks:
        own = found["gpt2.py", task]
        print(f"\n{size}{task}: milliseconds, and how many times that of gpt2.py")
        for name in names:
            if found[name, task] is not None:
                print(f"  {name:22} {1e3 * found[name, task]:8.1f}  {found[name, task] / own:6.2f}")


def processes(models_dir, name):
    """Print how long whole processes take, and their largest memory."""
    print("\nwhole processes: seconds, and how many times that of gpt2.py")
    for n_tokens in (1, 40):
        run = commands(models_dir, name, 10, n_tokens)
        del run["gpt2_pico.py"]
        if not importlib.util.find_spec("transformers"):
            del run["transformers"]
        times = alternate(run, 5)
        for program, seconds in times.items():
            what = f"{program}, {n_tokens} tokens"
            print(f"  {what:33} {seconds:6.2f} {seconds / times['gpt2.py']:6.2f}")
    small = [sys.executable, f"{ROOT}/gpt2.py", "def ", "--model_size=python"]
    times = alternate({"bundled model": [*small, f"--models_dir={ROOT}/models"]}, 5)
    print(f"  {'gpt2.py, bundled model, 40 tokens':33} {times['bundled model']:6.2f}")
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], capture_output=True);"
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"  # KiB on Linux
    command = commands(models_dir, name, 10, 100)["gpt2.py"]
    megabytes = subprocess.check_output([sys.executable, "-c", code, *command], encoding="utf-8")
    weights = (Path(models_dir) / name / "model.safetensors").stat().st_size / 2**20
    print(f"  largest memory, 100 tokens: weights ({weights:.0f} MiB)", end="")
    print(f" + {float(megabytes) - weights:.0f} MiB")


def memory_speed():
    """Bytes a second at which all cores together read memory: the median of nine reads of 512 MB"""
    n = cores()
    parts = np.ones((n, 2**27 // n), np.float32)
    times = []
    with ThreadPoolExecutor(n) as pool:
        for _ in range(9):
            start = time.perf_counter()
            list(pool.map(np.add.reduce, parts))
            times.append(time.perf_counter() - start)
    return parts.nbytes / statistics.median(times)


def run_one(name, task, folder):
    """Run in a process of its own: print the seconds that `task` takes `name`, or null."""
    stream, batch = CONTENDERS[name][1](Path(folder))
    run = TASKS[task]
    if name == "gpt2_pico.py":
        run = decode_slowly if task == "decode" else None
    can = run and (batch or not task.endswith("texts"))
    print(json.dumps(run(stream, batch) if can else None))


def measure(folder, names, tasks):
    """{(name, task): median seconds or None}"""
    found = {(name, task): [] for task in tasks for name in names}
    for _ in range(ROUNDS):
        for name, task in found:
            command = [sys.executable, __file__, name, task, folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, encoding="utf-8")
            found[name, task].append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(t) if None not in t else None for key, t in found.items()}


def write_svg(path, speeds, limit):
    """Bars of tokens per second while decoding, and a line at `limit`."""
    width, left, bar = 720, 170, 26
    scale = (width - left - 70) / max(*speeds.values(), limit)
    height = 60 + bar * len(speeds)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<text x="10" y="18" fill="#444">tokens per second, GPT-2 124M, 10-token prompt</text>',
    ]
    for i, (name, speed) in enumerate(speeds.items()):
        y = 30 + bar * i
        colour = "#1f77b4" if name.startswith("gpt2") else "#bbb"
        size = f'width="{speed * scale:.1f}" height="{bar - 8}"'
        lines.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{name}</text>')
        lines.append(f'<rect x="{left}" y="{y}" {size} fill="{colour}"/>')
        lines.append(f'<text x="{left + speed * scale + 6:.1f}" y="{y + 14}">{speed:.0f}</text>')
    x = left + limit * scale
    lines.append(f'<path d="M{x:.1f} 26V{height - 26}" stroke="#d62728" stroke-dasharray="4 3"/>')
    words = "float32 weights at the speed of memory"
    lines.append(
        f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle" fill="#d62728">{words}</text>'
    )
    path.write_text("\n".join([*lines, "</svg>"]) + "\n", encoding="utf-8")


def main():
    print(machine())
    missing = [n for n, (package, _) in CONTENDERS.items() if not importlib.util.find_spec(package)]
    names = [name for name in CONTENDERS if name not in missing]
    for name in missing:
        print(f"left out, not installed: {name}")
    with tempfile.TemporaryDirectory() as models_dir:
        folder = Path(models_dir) / random_model(models_dir)
        n_bytes = (folder / "model.safetensors").stat().st_size
        limit = memory_speed() / n_bytes
        print(f"memory: {limit * n_bytes / 1e9:.1f} GB/s, all weights {limit:.1f} times a second")
        found = measure(str(folder), names, TASKS)
        print_table(found, names, TASKS)
        near, far = found["gpt2.py", "decode"], found["gpt2.py", "position 1000"]
        print(f"\ngpt2.py: {1 / near / limit:.2f} of the speed of memory;", end=" ")
        print(f"at position 1000 a token takes {far / near:.2f} times as long")
        guessing(folder)
        processes(models_dir, folder.name)
        shutil.rmtree(folder)
        larger = [name for name in ("gpt2.py", "transformers float32") if name in names]
        larger_models(models_dir, larger)
    speeds = {name: 1 / found[name, "decode"] for name in names if found[name, "decode"]}
    (ROOT / "docs").mkdir(exist_ok=True)
    write_svg(ROOT / "docs" / "speed.svg", speeds, limit)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        run_one(*sys.argv[1:])
    else:
        main()
