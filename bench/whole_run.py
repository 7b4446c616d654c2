"""Whole processes at the 124M shape, random float32 weights: gpt2.py, gpt2_pico.py, transformers.

    python bench/whole_run.py

Each figure is the median time from the start of a process to its end, the processes run in turn.
"""

import sys
import tempfile

from measure import ROOT, alternate, machine, random_model

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


def commands(models_dir, name, n_prompt, n_new):
    prompt = " the" * n_prompt  # one token each
    options = [f"--n_tokens_to_generate={n_new}", f"--model_size={name}"]
    options.append(f"--models_dir={models_dir}")
    folder = f"{models_dir}/{name}"
    return {
        "gpt2.py": [sys.executable, f"{ROOT}/gpt2.py", prompt, *options, "--stop_at_eot=False"],
        "gpt2_pico.py": [sys.executable, f"{ROOT}/gpt2_pico.py", prompt, *options],
        "transformers": [sys.executable, "-c", TRANSFORMERS, folder, prompt, str(n_new)],
    }


def main():
    print(machine())
    with tempfile.TemporaryDirectory() as models_dir:
        name = random_model(models_dir)
        for n_prompt, n_new, n_runs in ((10, 40, 5), (500, 20, 3), (10, 1, 7)):
            run = commands(models_dir, name, n_prompt, n_new)
            if n_new == 1:
                del run["gpt2_pico.py"]
            times = alternate(run, n_runs)
            print(f"\n{n_prompt} tokens in, {n_new} out, median of {n_runs}:")
            for program, time in times.items():
                ratio = time / times["gpt2.py"]
                print(f"  {program:14} {time:7.2f} s   {ratio:6.2f} x gpt2.py")


if __name__ == "__main__":
    main()
