"""The page of `explain.py`: one HTML file with everything in it.

Its parts lie in `page/`, and are joined when the page is made:

    page.html          the sections, empty
    *.css              how they look, joined in the order of `STYLES`
    *.js               fill the sections from the data of `page_data.py`, and follow the reader's
                       choices: modules that import from each other, a file for each section and
                       for what they share; joined, each after those that it uses
"""

import base64
import graphlib
import hashlib
import json
import re
from pathlib import Path

FOLDER = Path(__file__).with_name("page")
# What they all have, the sections, and what is different in a narrow window, which has to win.
STYLES = ["base", "frame", "controls", "tokens", "overview", "bars"]
STYLES += ["attention", "lens", "residual", "operations", "narrow"]


def page_html(data: dict, served: dict | None = None) -> str:
    """The page as one HTML file that asks for nothing else.

    data: from `page_data.page_data`. served: None for a file; {"token": ...} for a page whose
    prompt can be edited: it then posts {"prompt", "n_tokens"} to /compute, with the token as
    X-Token, and expects new data.
    """
    css, js = "\n".join(read(f"{name}.css") for name in STYLES), joined_scripts()
    parts = {
        "policy": security_policy(css, js, connect="'none'" if served is None else "'self'"),
        "css": css,
        "js": js,
        "data": harmless_json(data),
        "served": harmless_json(served),
    }
    # One pass: what is put in is not searched again, so a prompt may hold {{data}}.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], read("page.html"))


def read(name: str) -> str:
    return FOLDER.joinpath(name).read_text(encoding="utf-8")


def joined_scripts() -> str:
    """All modules in one scope: without the lines that import, and without the word `export`.

    Raises graphlib.CycleError if two modules need each other.
    """
    texts = {path.name: read(path.name) for path in sorted(FOLDER.glob("*.js"))}
    needed = {name: re.findall(r'from "\./(.+)";$', texts[name], re.M) for name in texts}
    order = graphlib.TopologicalSorter(needed).static_order()
    return "\n".join(
        re.sub(r"^import [^;]+;\n|^export ", "", texts[name], flags=re.M) for name in order
    )


def security_policy(css: str, js: str, connect: str) -> str:
    """A Content-Security-Policy: no style and no script but these two, no request but to `connect`.

    Source: W3C, "Content Security Policy Level 3".
    """
    rules = {
        "default-src": "'none'",
        "style-src": source_hash(css),
        "script-src": source_hash(js),
        "connect-src": connect,
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {sources}" for name, sources in rules.items())


def source_hash(text: str) -> str:
    """How a policy names an inline style or script.

    >>> source_hash("alert('Hello, world.');")
    "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"
    """
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def harmless_json(value: dict | None) -> str:
    """JSON that can stand in a <script> element: in ASCII, and without anything HTML could end.

    >>> harmless_json({"prompt": "</script>"})
    '{"prompt":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":  # in JSON they only occur within strings
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
