"""Whole programs, as commands: each reads a model folder and continues a prompt greedily."""

import sys
from pathlib import Path

TRANSFORMERS = """
import sys
import torch, transformers
folder, prompt, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
inputs = tokenizer(prompt, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=n, min_new_tokens=n, do_sample=False)
print(tokenizer.decode(ids[0]))
"""


def prompt_of(n_tokens: int) -> str:
    """A prompt of that many tokens: GPT-2 has " the" as one."""
    return " the" * n_tokens


def gpt2_command(checkout: Path, model: Path, prompt: str, n_new: int) -> list[str]:
    """The `gpt2.py` of the folder `checkout`."""
    command = [sys.executable, str(checkout / "gpt2.py"), prompt, "--stop_at_eot=False"]
    return command + options(model, n_new)


def pico_command(checkout: Path, model: Path, prompt: str, n_new: int) -> list[str]:
    """The `gpt2_pico.py` of the folder `checkout`."""
    return [sys.executable, str(checkout / "gpt2_pico.py"), prompt, *options(model, n_new)]


def options(model: Path, n_new: int) -> list[str]:
    return [
        f"--n_tokens_to_generate={n_new}",
        f"--model_size={model.name}",
        f"--models_dir={model.parent}",
    ]


def transformers_command(checkout: Path, model: Path, prompt: str, n_new: int) -> list[str]:
    """Hugging Face's `transformers`; there is no checkout to choose."""
    return [sys.executable, "-c", TRANSFORMERS, str(model), prompt, str(n_new)]
