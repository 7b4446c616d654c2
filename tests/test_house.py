"""The house: which of our files may import which, where imports stand, and what is written once.

`violations` reads sources with `ast` and runs nothing. It is tested on sources that break each
rule, and then holds the project itself to them.
"""

import ast
import graphlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A place (a file or a folder at the top level) -> what it may import of ours. A folder stands for
# all its files that have no row of their own.
MODEL = ["gpt2", "generating", "fast", "command_line", "utils", "model_files", "encoder"]
BELOW_PROGRAMS = ["training", *MODEL]
MAY_IMPORT = {
    "explain": ["explaining", *BELOW_PROGRAMS],
    "explaining.server": ["explaining.page", "explaining.page_data", "command_line"],
    "explaining.page": [],
    "explaining.page_data": ["explaining.watch", *MODEL],
    "explaining.compare": ["explaining.hint", "explaining.dump", "explaining.watch", *MODEL],
    "explaining.hint": ["explaining.mistakes", "explaining.watch"],
    "explaining.mistakes": ["explaining.watch", *MODEL],
    "explaining.dump": ["explaining.watch", *MODEL],
    "explaining": MODEL,
    "train": BELOW_PROGRAMS,
    "corpus": ["training.data", "command_line"],
    "average": ["utils", "command_line"],
    "training.run": [
        *("training.batches", "training.checkpoint", "training.data", "training.folder"),
        *("training.learner", "training.learning_rate", "training.log", "training.model"),
        *("training.options", "training.tokenizer", *MODEL),
    ],
    "training.learner": [
        *("training.adamw", "training.batch_loss", "training.muon", "training.options"),
        *("training.unlikelihood", "utils", "encoder"),
    ],
    "training.log": ["training.checkpoint", "training.options", *MODEL],
    "training.checkpoint": ["training.options", "utils", "model_files"],
    "training.unlikelihood": [
        *("training.batch_loss", "training.batches", "training.layers", "training.model"),
        *("gpt2", "fast.threads", "encoder"),
    ],
    "training.batch_loss": ["training.layers", "training.model", "fast.threads", "utils"],
    "training.model": ["training.layers", "utils"],
    "training.options": ["command_line"],
    "training": ["fast.threads", "utils", "model_files", "encoder"],
    "gpt2": ["generating", "fast", "utils", "command_line"],
    "gpt2_pico": [],
    "fast.schedule": ["fast.product", "fast.threads"],
    "fast.product": ["fast.threads"],
    "fast.threads": [],
    "fast": [],
    "command_line": [],
    "utils": ["model_files", "encoder"],
    "model_files.published": [
        *("model_files.download", "model_files.folder", "model_files.safetensors"),
        *("model_files.tf_checkpoint", "model_files.disk", "encoder"),
    ],
    "model_files.download": ["model_files.disk"],
    "model_files.folder": [
        *("model_files.safetensors", "model_files.tf_checkpoint"),
        *("model_files.parameters", "model_files.disk", "encoder"),
    ],
    "model_files.tf_checkpoint": ["model_files.parameters", "model_files.disk"],
    "model_files.safetensors": ["model_files.parameters", "model_files.disk"],
    "model_files.parameters": [],
    "model_files.disk": [],
    "model_files": [],
    "generating.side_by_side": ["generating.guessing", "generating.window", "generating.sampling"],
    "generating.guessing": ["generating.guesses", "generating.window"],
    "generating.window": [],
    "generating.guesses": [],
    "generating.sampling": ["command_line"],
    "generating": [],
    "encoder": ["model_files.disk"],
}
# Imports of ours that stand inside a function: (place, function, what it imports).
INSIDE_FUNCTIONS = {("gpt2_pico", "main", "utils")}
# Not part of the product: these may import what they like, and nothing may import them.
FREE_FOLDERS = ["tests", "bench", "docs", "models"]

# Third-party packages are slow to import, and not every run needs them: only NumPy stands at the
# top of a file, the others inside the function that needs them.
AT_THE_TOP = sys.stdlib_module_names | {"numpy"}

# The layers are defined in gpt2.py and nowhere else. gpt2_pico.py is the model once more, for
# reading; training/ has each layer's forward pass beside its backward pass.
DEFINED_ONCE = ["gelu", "softmax", "layer_norm", "linear", "ffn", "attention", "mha"]
DEFINED_ONCE += ["transformer_block", "gpt2"]
DEFINED_AGAIN = ["gpt2_pico", "training"]


class Import(NamedTuple):
    module: str  # "fast.threads"
    line: int
    # Where it stands: "top" (of the file), "block" (an if, try, with or class at the top level),
    # "main" (under `if __name__ == "__main__"`) or "function".
    where: str
    function: str | None  # the outermost function around it


def module_name(path: str) -> str:
    """
    >>> module_name("fast/threads.py"), module_name("fast/__init__.py")
    ('fast.threads', 'fast')
    """
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def place(module: str) -> str:
    return module.split(".")[0]


def imports(tree: ast.Module, modules: set[str]) -> Iterator[Import]:
    """All imports of a file; `modules` has the names of all our modules."""
    for statement in tree.body:
        yield from _imports(statement, modules, "top", None)


def _imports(node: ast.AST, modules: set[str], where: str, function: str | None):
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, where, function)
    elif isinstance(node, ast.ImportFrom):
        source = "." * node.level + (node.module or "")
        for alias in node.names:
            submodule = f"{source}.{alias.name}"  # `from fast import threads`
            module = submodule if submodule in modules else source
            yield Import(module, node.lineno, where, function)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        where, function = "function", function or node.name
    elif where == "top":
        is_main = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        where = "main" if is_main else "block"
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, modules, where, function)


def allowed(module: str, importing: str) -> bool:
    below = MAY_IMPORT.get(importing, MAY_IMPORT[place(importing)])
    return any(module == name or module.startswith(name + ".") for name in below)


def wrong_import(path: str, found: Import, our_places: set[str]) -> str | None:
    """What is wrong with an import, None if nothing is."""
    importing = module_name(path)
    name = found.module
    if name.startswith("."):
        return f"imports {name}: give the full name"
    if place(name) in our_places:
        if (place(importing), found.function, name) in INSIDE_FUNCTIONS:
            return None
        if not allowed(name, importing):
            return f"imports {name}, which is not below it"
        if found.where != "top":
            return f"imports {name}, which is ours, but not at the top of the file"
    elif place(name) not in AT_THE_TOP and found.where in ("top", "block"):
        return f"imports {name} outside a function"
    return None


def hidden_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The lines that import in another way, or change what an import finds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = ast.unparse(node)
            if name == "sys.modules" or name.split(".")[-1] in ("__import__", "import_module"):
                yield node.lineno, name
        elif isinstance(node, ast.ImportFrom) and node.module in ("sys", "importlib"):
            for alias in node.names:
                if alias.name in ("modules", "import_module"):
                    yield node.lineno, alias.name


def wrong_definitions(trees: dict[str, ast.Module]) -> Iterator[str]:
    """The layers that are not defined exactly once, in gpt2.py."""
    paths_of = {name: [] for name in DEFINED_ONCE}
    for path, tree in trees.items():
        if place(module_name(path)) in DEFINED_AGAIN:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in paths_of:
                paths_of[node.name].append(path)
    for name, paths in paths_of.items():
        if paths != ["gpt2.py"]:
            found = ", ".join(paths) or "no file"
            yield f"{name} is to be defined once, in gpt2.py, and is in {found}"


def violations(sources: dict[str, str]) -> list[str]:
    """What breaks the rules in the files of the product, {path: source}: a line for each."""
    trees = {path: ast.parse(source) for path, source in sources.items()}
    modules = {module_name(path) for path in sources}
    our_places = {place(module) for module in modules} | {*MAY_IMPORT, *FREE_FOLDERS}
    wrong = []
    for path, tree in trees.items():
        if place(module_name(path)) not in MAY_IMPORT:
            wrong.append(f"{path}: has no place in the table of tests/test_house.py")
            continue
        for each in imports(tree, modules):
            reason = wrong_import(path, each, our_places)
            if reason:
                wrong.append(f"{path}:{each.line}: {reason}")
        wrong += [f"{path}:{line}: uses {name}" for line, name in hidden_imports(tree)]
    wrong += wrong_definitions(trees)
    return list(dict.fromkeys(wrong))  # `from a import b, c` is one line, not two


def product_files(root: Path) -> dict[str, str]:
    """{path: source} of all files of the product in a checkout."""
    paths = list(root.glob("*.py"))
    for folder in root.iterdir():
        is_environment = folder.name.startswith(".") or (folder / "pyvenv.cfg").exists()
        if folder.is_dir() and not is_environment and folder.name not in FREE_FOLDERS:
            paths += folder.rglob("*.py")
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(paths)
    }


# ---------------------------------------------------------------- the checker itself

LAYERS = "\n".join(f"def {name}(): pass" for name in DEFINED_ONCE)
GOOD = {
    "train.py": (
        "import numpy as np\nfrom command_line import run\nfrom training.layers import forward\n"
        "def plot():\n    from matplotlib.figure import Figure\n"
    ),
    "explain.py": "from explaining.compare import compare\nfrom training.data import read",
    "explaining/compare.py": "import gpt2\nfrom explaining.watch import watch",
    "explaining/watch.py": "import gpt2\nfrom encoder import Encoder",
    "training/layers.py": "from fast.threads import cores\nimport utils\ndef gelu(): pass",
    "training/data.py": "from encoder import Encoder",
    "gpt2.py": f"import utils\nfrom fast import schedule\nfrom command_line import run\n{LAYERS}",
    "gpt2_pico.py": (
        f"import numpy as np\n{LAYERS}\ndef main():\n    from utils import load\n"
        "if __name__ == '__main__':\n    import fire\n"
    ),
    "fast/__init__.py": "",
    "fast/schedule.py": "import os, math\nfrom fast.threads import cores",
    "fast/product.py": "import numpy as np\nfrom fast.threads import cores",
    "fast/lookup.py": "import math",
    "fast/threads.py": "def limit():\n    import threadpoolctl",
    "command_line.py": "def run():\n    import fire",
    "utils.py": "from encoder import get_encoder\ndef fetch():\n    import requests, urllib.parse",
    "encoder.py": "import json\ndef split():\n    import regex",
}


def test_sources_that_keep_the_rules_pass():
    assert violations(GOOD) == []


@pytest.mark.parametrize(
    ("path", "line", "names"),
    [
        ("encoder.py", "from gpt2 import generate", "gpt2"),
        ("encoder.py", "import utils", "utils"),
        ("utils.py", "import command_line", "command_line"),
        ("command_line.py", "from fast.threads import cores", "fast.threads"),
        ("fast/threads.py", "import utils", "utils"),
        ("fast/threads.py", "from gpt2 import gelu", "gpt2"),
        ("gpt2.py", "from encoder import Encoder", "encoder"),
        ("gpt2.py", "import train", "train"),
        ("gpt2_pico.py", "import gpt2", "gpt2"),
        ("gpt2_pico.py", "import utils", "utils"),
        ("training/data.py", "from fast import schedule", "fast.schedule"),
        ("training/data.py", "from gpt2 import generate", "gpt2"),
        ("training/data.py", "from training import layers", "training.layers"),
        ("explaining/watch.py", "from explaining.compare import compare", "explaining.compare"),
        ("explaining/compare.py", "import explaining.page", "explaining.page"),
        ("explaining/watch.py", "from training.data import read", "training.data"),
        ("gpt2.py", "from explaining.watch import watch", "explaining.watch"),
        ("train.py", "from explaining.watch import watch", "explaining.watch"),
        ("fast/product.py", "from fast.lookup import Guesses", "fast.lookup"),
        ("train.py", "import gpt2_pico", "gpt2_pico"),
        ("train.py", "from tests.random_models import random_params", "tests"),
        ("train.py", "import explain", "explain"),
        # Allowed, but not there.
        ("gpt2.py", "def f():\n    import utils", "utils"),
        (
            "gpt2.py",
            "def f():\n    def g():\n        from fast.threads import cores",
            "fast.threads",
        ),
        ("gpt2.py", "if __name__ == '__main__':\n    from command_line import run", "command_line"),
        ("gpt2.py", "try:\n    import utils\nexcept ImportError:\n    pass", "utils"),
        ("gpt2_pico.py", "def generate():\n    import utils", "utils"),
        ("fast/schedule.py", "from .threads import cores", ".threads"),
        # Third-party packages.
        ("utils.py", "import requests", "requests"),
        ("utils.py", "from tqdm import tqdm", "tqdm"),
        ("train.py", "import matplotlib.figure", "matplotlib.figure"),
        ("encoder.py", "try:\n    import regex\nexcept ImportError:\n    pass", "regex"),
        ("gpt2.py", "class A:\n    import torch", "torch"),
        ("train.py", "import a_package_nobody_knows", "a_package_nobody_knows"),
        # Imports that are no import statements.
        ("gpt2.py", "import sys\nsys.modules['gpt2'] = None", "sys.modules"),
        ("utils.py", "__import__('gpt2')", "__import__"),
        ("utils.py", "import importlib\nimportlib.import_module('gpt2')", "import_module"),
        ("utils.py", "from importlib import import_module as load", "import_module"),
        ("utils.py", "from sys import modules", "modules"),
    ],
)
def test_a_forbidden_line_is_reported(path, line, names):
    [violation] = violations(GOOD | {path: f"{GOOD[path]}\n{line}"})
    assert violation.startswith(f"{path}:") and names in violation


@pytest.mark.parametrize("path", ["fast_generation.py", "kernels/gelu.py"])
def test_a_file_without_a_place_is_reported(path):
    [violation] = violations(GOOD | {path: ""})
    assert violation.startswith(f"{path}:")


def test_what_has_no_place_may_not_be_imported_either():
    found = violations(
        GOOD | {"kernels/a.py": "", "gpt2.py": GOOD["gpt2.py"] + "\nimport kernels.a"}
    )
    assert [line.split(":")[0] for line in found] == ["gpt2.py", "kernels/a.py"]


def test_the_table_has_no_circle():
    rows = {name: {other for other in MAY_IMPORT if allowed(other, name)} for name in MAY_IMPORT}
    graphlib.TopologicalSorter(rows).prepare()  # raises CycleError


@pytest.mark.parametrize("path", ["train.py", "fast/schedule.py", "utils.py"])
@pytest.mark.parametrize("name", ["gelu", "softmax", "layer_norm", "attention"])
def test_a_second_definition_of_a_layer_is_reported(name, path):
    again = f"\nclass A:\n    def {name}(self): pass"
    [violation] = violations(GOOD | {path: GOOD[path] + again})
    assert violation.startswith(name) and path in violation


def test_a_layer_that_is_missing_is_reported():
    without = GOOD["gpt2.py"].replace("def softmax", "def soft_max")
    [violation] = violations(GOOD | {"gpt2.py": without})
    assert violation.startswith("softmax")


def test_the_files_of_a_checkout_are_found(tmp_path):
    for path in ("gpt2.py", "fast/threads.py", "kernels/a/b.py", "tests/c.py", ".venv/d.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("import é", encoding="utf-8")
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "env" / "e.py").touch()
    assert set(product_files(tmp_path)) == {"gpt2.py", "fast/threads.py", "kernels/a/b.py"}


# ---------------------------------------------------------------- the project


def test_the_project_keeps_the_rules():
    assert "\n".join(violations(product_files(ROOT))) == ""


# Names that other people's code relies on.
PUBLIC = {
    "encoder": "get_encoder Encoder ENDOFTEXT SPLIT",
    "utils": "load_encoder_hparams_and_params load_model download_gpt2_files "
    "load_gpt2_params_from_tf_ckpt save_model_folder parameter_shapes map_params named",
    "gpt2": "gelu softmax layer_norm linear ffn attention_weights attention causal_mask mha "
    "transformer_block KVCache Model gpt2 sample generate generate_stream generate_side_by_side "
    "main",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_there(module):
    names = PUBLIC[module].split()
    assert [name for name in names if not hasattr(importlib.import_module(module), name)] == []
