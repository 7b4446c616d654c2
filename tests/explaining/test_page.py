"""The page as one file of HTML, whatever the text; its scripts, and what they import."""

import json
import re
from html.parser import HTMLParser

import pytest

from encoder import Encoder, byte_level_vocab
from explaining import page
from explaining.page import page_html
from explaining.page_data import page_data
from tests.fixtures.random_models import random_params

HPARAMS = {"n_vocab": 257, "n_ctx": 60, "n_embd": 8, "n_head": 2, "n_layer": 1}


@pytest.fixture(scope="module")
def model():
    return Encoder(byte_level_vocab(), []), HPARAMS, random_params(HPARAMS)


@pytest.fixture(scope="module")
def data(model):
    return page_data("def ", model, 2)


# ---------------------------------------------------------------- the HTML

HOSTILE_PROMPTS = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!-- <script> --> ]]> &lt;b&gt; &amp;",
    "\u202eright to left\u202c \u05d0\u05d1\u05d2 \u200f",
    "NUL \0, escape \x1b, \x7f, \u2028 and \u2029",
    "😀👩\u200d👩\u200d👧",
    "{{js}} {{data}} \\u003c \\1",
    "\ud800 a lone surrogate",
    "\"quotes\" 'and' `ticks` ${state}",
]


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of the scripts by their id."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.scripts = [], {}
        self._script = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self._script = dict(attributes).get("id", "js")
            self.scripts[self._script] = ""

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, text):
        if self._script is not None:
            self.scripts[self._script] += text


@pytest.mark.parametrize("prompt", HOSTILE_PROMPTS)
def test_any_text_is_text(prompt, model):
    data = page_data(prompt, model, 0)
    html = page_html(data)
    html.encode("utf-8")  # it can be written to a file
    found = Elements(html)
    plain = Elements(page_html(page_data("a", model, 0)))
    assert found.elements == plain.elements
    assert found.scripts["js"] == plain.scripts["js"]
    assert json.loads(found.scripts["data"]) == json.loads(json.dumps(data))
    assert json.loads(found.scripts["data"])["prompt"] == prompt
    assert not re.search(r"[<>&\u2028\u2029]", found.scripts["data"])
    assert found.scripts["data"].isascii()


def policy_of(html):
    [policy] = [a["content"] for tag, a in Elements(html).elements if "http-equiv" in a]
    return dict(rule.strip().split(" ", 1) for rule in policy.split(";"))


def test_a_file_may_ask_for_nothing(data):
    html = page_html(data)
    policy = policy_of(html)
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"
    assert policy["connect-src"] == "'none'"
    assert "unsafe" not in " ".join(policy.values())
    assert json.loads(Elements(html).scripts["served"]) is None
    for _, attributes in Elements(html).elements:
        assert "src" not in attributes
        assert attributes.get("href", "#")[0] == "#" or attributes["href"] == "data:,"
    assert not re.search(r"url\(|@import", html)


def test_a_served_page_may_ask_its_own_server(data):
    html = page_html(data, {"token": "</script>&secret"})
    assert policy_of(html)["connect-src"] == "'self'"
    assert json.loads(Elements(html).scripts["served"]) == {"token": "</script>&secret"}
    assert html.count("</script>") == 3


# ---------------------------------------------------------------- the scripts

SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in page.FOLDER.glob("*.js")}
IMPORT = re.compile(r'^import \{([^}]+)\} from "\./(\w+\.js)";\n', re.M)
DEFINITION = re.compile(r"^(export )?(?:async )?(?:function|class|const|let) (\w+)", re.M)
NO_CODE = re.compile(r'//.*|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`')
# Not a member (x.name) and not a key (name: x); ...name is one.
NAME = re.compile(r"(?<!\w)(?<!(?<!\.\.)\.)[A-Za-z]\w*(?![\w:])")


def code(text):
    """A script without its comments and strings, but for what is put into them: `${...}`."""

    def inserted(match):
        found = re.findall(r"\$\{([^}]*)\}", match[0]) if match[0][0] == "`" else []
        return code(" ".join(found))

    return NO_CODE.sub(inserted, text)


def wrong_names(scripts):
    """What is wrong with what the scripts define, export and import: a line for each."""
    definitions = {file: DEFINITION.findall(text) for file, text in scripts.items()}
    exports = {file: {name for export, name in definitions[file] if export} for file in scripts}
    files_of = {}
    for file, found in definitions.items():
        for _, name in found:
            files_of.setdefault(name, []).append(file)
    yield from (f"{name} is in {files}" for name, files in files_of.items() if len(files) > 1)
    imported_from = {file: set() for file in scripts}
    for file, text in scripts.items():
        used = NAME.findall(code(IMPORT.sub("", text)))
        imported = set()
        for names, source in IMPORT.findall(text):
            names = set(re.findall(r"[^\s,]+", names))
            imported |= names
            imported_from[source] |= names
            yield from (f"{file}: {source} has no {name}" for name in names - exports[source])
            yield from (f"{file}: {name} is not used" for name in names - {*used})
        own = {name for _, name in definitions[file]}
        private = own - exports[file]
        yield from (f"{file}: {name} is not used" for name in private if used.count(name) == 1)
        missing = {*used} & files_of.keys() - own - imported
        yield from (f"{file}: {name} is not imported" for name in missing)
    for file in scripts:
        if file != "page.js" and not imported_from[file]:
            yield f"{file} is not imported"
        yield from (
            f"{file}: nobody imports {name}" for name in exports[file] - imported_from[file]
        )


def test_scripts_import_what_they_use():
    assert list(wrong_names(SCRIPTS)) == []
    imports = re.findall(r"^import .*", "\n".join(SCRIPTS.values()), re.M)
    assert len(imports) == sum(len(IMPORT.findall(text)) for text in SCRIPTS.values())


@pytest.mark.parametrize(
    ("file", "old", "new", "wrong"),
    [
        ("lens.js", "import { bounded, range }", "import { range }", "bounded is not imported"),
        ("lens.js", "import { percent }", "import { count, percent }", "count is not used"),
        ("lens.js", "import { percent }", "import { percents }", "text.js has no percents"),
        ("text.js", "export function percent", "function percent", "text.js has no percent"),
        ("lens.js", "let lensRow;", "let lensRow, i;\nconst range = 1;", "range is in"),
        ("lens.js", "let lensRow;", "let lensRow;\nfunction f() {}", "f is not used"),
        ("lens.js", "let lensRow;", "let lensRow;\nexport const f = 1;", "nobody imports f"),
        ("other.js", "", "const other = 1;", "other.js is not imported"),
    ],
)
def test_a_wrong_name_is_reported(file, old, new, wrong):
    text = SCRIPTS.get(file, "")
    assert old in text
    assert wrong in "\n".join(wrong_names({**SCRIPTS, file: text.replace(old, new, 1)}))


def test_all_scripts_and_styles_are_joined(data):
    html = page_html(data)
    assert {f"{name}.css" for name in page.STYLES} == {p.name for p in page.FOLDER.glob("*.css")}
    for file in page.FOLDER.glob("*.css"):
        assert file.read_text(encoding="utf-8") in html
    joined = Elements(html).scripts["js"]
    for text in SCRIPTS.values():
        assert IMPORT.sub("", text).replace("export ", "") in joined
    assert not re.search("^(import|export) ", joined, re.M)


def test_the_page_sets_text_as_text_only():
    scripts = "\n".join(SCRIPTS.values())
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", scripts)
