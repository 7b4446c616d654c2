"""The page in a real browser: what it shows is held against gpt2.py, from a file and served."""

import functools
import http.server
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import gpt2
import utils
from explaining.page import page_html
from explaining.page_data import page_data
from explaining.server import page_server
from explaining.watch import Value, watch
from tests.fixtures import browser
from tests.fixtures.drawing import drawing_probabilities
from tests.fixtures.http_server import running

if browser.missing():
    message = f"{browser.missing()}: the page is not tried in a browser"
    pytest.skip(message, allow_module_level=True)

MODELS = Path(gpt2.__file__).resolve().parent / "models"
PROMPT = "def fibonacci(n):\n    if n"
N_GENERATED = 6
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
# An attention weight is stored in steps of 1 / 65535; a probability is a float32.
WEIGHT_TOLERANCE, PROBABILITY_TOLERANCE = 1e-5, 2e-5
SERIOUS = ("serious", "critical")
REBOUND_HOST = "rebound.example"
BARS = "#next [data-token-id][data-probability]"  # of the token after the last one

BIDI_MARKS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
INVISIBLE = "\x00\x07\x1b\x7f\xa0\xad\u2028\u2029\u200d\ufeff\U0010ffff"
SHOWN_AS = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}  # the others by their number
SHOWN_AS |= {c: f"[U+{ord(c):04X}]" for c in BIDI_MARKS + INVISIBLE}
HOSTILE_PROMPTS = {
    "markup": (
        "<script>document.title = 'hacked'</script>\n"
        "</script><script>document.title = 'hacked'</script>\n"
        "<!-- <script> --><img src=x onerror=\"document.title = 'hacked'\">\n"
        "\" onmouseover=\"document.title = 'hacked'\" '"
    ),
    "placeholders": (
        "{{data}} {{js}} {{missing}} ${document.title = 'hacked'} \\u003c $& $1 \\1\n"
        "&lt;b&gt; &amp; &#60;"
    ),
    "characters": (
        f"a{BIDI_MARKS}\u05d0\u05d1 b{INVISIBLE} \x1b[31m b\r\nc\rd\n\t🙂👩\u200d👩\u200d👧 e\u0301"
    ),
}


@pytest.fixture(scope="module")
def model():
    return utils.load_model("python", str(MODELS))


class Text(NamedTuple):
    prompt: str
    ids: list[int]  # of the prompt, and of what the model writes after it
    values: dict[str, Value]


def continued(prompt, model, n_tokens):
    encoder, hparams, params = model
    ids = encoder.encode(prompt)
    ids += gpt2.generate(ids, params, hparams["n_head"], n_tokens, stop_id=encoder.eot)
    return Text(prompt, ids, watch(ids, params, hparams["n_head"]))


@pytest.fixture(scope="module")
def text(model):
    text = continued(PROMPT, model, N_GENERATED)
    assert len(text.ids) == len(model[0].encode(PROMPT)) + N_GENERATED
    return text


@pytest.fixture(scope="module")
def page_file(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(page_html(page_data(PROMPT, model, N_GENERATED)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def chromium():
    # As if a name server had sent the name here.
    rebinding = f"--host-resolver-rules=MAP {REBOUND_HOST} 127.0.0.1"
    with browser.chromium(rebinding, "--no-proxy-server") as chromium:
        yield chromium


@pytest.fixture
def open_page(chromium):
    """open_page(address, **options of the window) -> Playwright's page.

    It has `errors`, all that went to the console as an error, and `requests`, the addresses that
    were asked for. In the end there may be no errors but those that a test has taken out.
    """
    contexts, pages = [], []

    def open_page(address, viewport=WIDE, **options):
        contexts.append(chromium.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.errors, page.requests = [], []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda line: line.type == "error" and page.errors.append(line.text))
        page.on("request", lambda request: page.requests.append(request.url))
        pages.append(page)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [page.errors for page in pages] == [[]] * len(pages)


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def choose(page, position):
    page.click(f'#tokens [data-position="{position}"]')


def numbers(page, selector, name):
    """The attribute data-<name> of all elements that match, as floats."""
    read = "(nodes, name) => nodes.map((node) => Number(node.getAttribute(name)))"
    return page.locator(selector).evaluate_all(read, f"data-{name}")


def softmax(logits):
    """In float64, and not the function that the page's data are made with."""
    e = np.exp(logits.astype(np.float64) - logits.max())
    return e / e.sum()


# ---------------------------------------------------------------- from a file


def test_a_file_opens_without_an_error_and_asks_for_nothing(open_page, page_file, text):
    page = open_page(page_file.as_uri(), offline=True)
    assert page.locator("#tokens [data-position]").count() == len(text.ids)
    for details in page.locator("#operations details").all():
        details.evaluate("node => node.open = true")
    page.wait_for_load_state("networkidle")
    assert [url for url in page.requests if not url.startswith("data:")] == [page_file.as_uri()]


@pytest.mark.parametrize(("block", "head"), [(0, 0), (7, 3), (5, 2)])
def test_the_weights_of_a_chosen_head_are_shown(open_page, page_file, text, block, head):
    _, ids, values = text
    page = open_page(page_file.as_uri())
    page.locator("#block").select_option(str(block))
    page.locator("#head").select_option(str(head))
    weights = values[f"h.{block}.attn.weights"].array[head]
    for position in (len(ids) - 1, 4):
        choose(page, position)
        shown = numbers(page, "#attention-row [data-weight]", "weight")
        expected = weights[position, : position + 1]
        np.testing.assert_allclose(shown, expected, atol=WEIGHT_TOLERANCE)


def test_the_mean_of_all_heads_is_shown(open_page, page_file, text):
    page = open_page(page_file.as_uri())
    page.locator("#block").select_option("2")
    page.locator("#head").select_option("mean")
    choose(page, len(text.ids) - 1)
    shown = numbers(page, "#attention-row [data-weight]", "weight")
    expected = text.values["h.2.attn.weights"].array.mean(axis=0)[-1]
    np.testing.assert_allclose(shown, expected, atol=WEIGHT_TOLERANCE)


def test_a_thumbnail_chooses_its_head(open_page, page_file, text):
    page = open_page(page_file.as_uri())
    page.locator('#thumbnails [data-block="4"][data-head="1"]').click()
    choose(page, len(text.ids) - 1)
    assert (page.input_value("#block"), page.input_value("#head")) == ("4", "1")
    shown = numbers(page, "#attention-row [data-weight]", "weight")
    expected = text.values["h.4.attn.weights"].array[1, -1]
    np.testing.assert_allclose(shown, expected, atol=WEIGHT_TOLERANCE)


def test_a_thumbnail_is_chosen_by_keyboard(open_page, page_file):
    page = open_page(page_file.as_uri())
    [reached_by_tab] = page.locator("#thumbnails button:not([tabindex='-1'])").all()
    reached_by_tab.focus()
    press(page, "ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft", "ArrowRight", "ArrowUp")
    assert (page.input_value("#block"), page.input_value("#head")) == ("1", "1")
    focused = page.locator("#thumbnails button:focus")
    assert focused.get_attribute("data-block") == focused.get_attribute("data-head") == "1"
    assert focused.get_attribute("tabindex") == "0"


def test_a_token_is_chosen_by_keyboard(open_page, page_file, text):
    """From the top of the page: the link to the tokens, the chosen one, then arrow keys."""
    _, ids, values = text
    page = open_page(page_file.as_uri())
    press(page, "Tab", "Enter", "Tab")
    focused = page.locator("#tokens [data-position]:focus")
    assert focused.get_attribute("aria-pressed") == "true"
    press(page, "End")
    assert focused.get_attribute("data-position") == str(len(ids) - 1)
    press(page, "Home", *["ArrowRight"] * 5)
    assert focused.get_attribute("data-position") == "5"
    assert focused.get_attribute("aria-pressed") == "true"
    probabilities = softmax(values["logits"].array[5])
    best = np.argsort(-probabilities, kind="stable")
    shown = numbers(page, "#candidates [data-probability]", "probability")
    expected = probabilities[best[: len(shown)]]
    np.testing.assert_allclose(shown, expected, atol=PROBABILITY_TOLERANCE)
    assert numbers(page, "#candidates [data-candidate]", "candidate") == best[: len(shown)].tolist()
    assert len(numbers(page, "#attention-row [data-weight]", "weight")) == 6


def test_scores_of_later_positions_are_masked(open_page, page_file):
    page = open_page(page_file.as_uri())
    open_details(page)
    choose(page, 1)
    page.locator('[data-name="h.0.attn.scores"]').evaluate("node => { node.open = true; }")
    shown = page.inner_text('[data-name="h.0.attn.scores"] [data-operation]')
    assert shown.startswith("position 1: ") and shown.endswith("  masked  masked …")


def test_sliders_change_the_bars_as_sampling_would(open_page, page_file, text):
    page = open_page(page_file.as_uri())
    logits = text.values["logits"].array[-1]
    steps = [  # a slider, keys, and then the temperature, top-k and top-p
        ("temperature", [], (1.0, 0, 1.0)),
        ("temperature", ["End"], (2.0, 0, 1.0)),
        ("top-k", ["ArrowRight"] * 8, (2.0, 8, 1.0)),
        ("top-p", ["ArrowLeft"] * 30, (2.0, 8, 0.7)),
        ("top-k", ["Home"], (2.0, 0, 0.7)),
        ("temperature", ["Home", *["ArrowRight"] * 30], (0.3, 0, 0.7)),
        ("top-p", ["Home"], (0.3, 0, 0.0)),
        ("top-p", ["End"], (0.3, 0, 1.0)),
        ("temperature", ["Home"], (0.0, 0, 1.0)),
    ]
    for slider, keys, options in steps:
        page.focus(f"#{slider}")
        press(page, *keys)
        set_to = [float(page.input_value(f"#{id_}")) for id_ in ("temperature", "top-k", "top-p")]
        np.testing.assert_allclose(set_to, options, atol=1e-9)
        ids = numbers(page, BARS, "token-id")
        assert len(ids) > 8 and ids[0] == np.argmax(logits)
        shares = drawing_probabilities(logits, len(ids), *options)
        expected = [shares.get(i, 0.0) for i in ids]
        shown = numbers(page, BARS, "probability")
        np.testing.assert_allclose(shown, expected, atol=PROBABILITY_TOLERANCE)


@pytest.mark.parametrize("prompt", HOSTILE_PROMPTS.values(), ids=HOSTILE_PROMPTS)
def test_any_text_is_text(open_page, model, tmp_path, prompt):
    data = page_data(prompt, model, 0)
    (tmp_path / "page.html").write_text(page_html(data), encoding="utf-8")
    page = open_page((tmp_path / "page.html").as_uri())
    tokens = page.locator("#tokens [data-position]")
    tokens.evaluate_all("all => all.forEach((token, i) => { if (i % 5 === 0) token.focus(); })")
    assert page.title() != "hacked"
    assert tokens.count() == len(data["ids"])
    assert page.locator("img, script:not([id]) ~ script:not([id])").count() == 0
    assert page.evaluate("JSON.parse(document.getElementById('data').textContent).text") == prompt
    assert not set(page.inner_text("body")) & set(BIDI_MARKS)
    page.click('#way [data-part="text"]')
    shown = page.inner_text("#part blockquote")
    assert shown == "".join(SHOWN_AS.get(character, character) for character in prompt)


def test_only_the_page_s_own_script_and_style_are_used(open_page, page_file, tmp_path):
    html = page_file.read_text(encoding="utf-8")
    foreign = "<script>document.title = 'hacked'</script><style>body { color: red }</style>"
    foreign += "<p style='color: red' onclick=\"document.title = 'hacked'\" id=foreign>foreign</p>"
    (tmp_path / "page.html").write_text(html.replace("<main>", f"<main>{foreign}"), "utf-8")
    page = open_page((tmp_path / "page.html").as_uri())
    page.click("#foreign")
    colours = "['body', '#foreign'].map((s) => getComputedStyle(document.querySelector(s)).color)"
    assert page.title() != "hacked" and "rgb(255, 0, 0)" not in page.evaluate(colours)
    assert page.locator("#tokens [data-position]").count() > 0  # its own were
    assert page.errors and all("Content Security Policy" in error for error in page.errors)
    page.errors.clear()


def test_it_is_dark_where_the_system_is(open_page, page_file):
    brightness = {}
    for scheme in ("light", "dark"):
        page = open_page(page_file.as_uri(), color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness[scheme] = sum(int(part) for part in colour.strip("rgba()").split(",")[:3])
    assert brightness["dark"] < 200 < 550 < brightness["light"]


@pytest.mark.parametrize("width", [1280, 360])
def test_no_width_needs_scrolling_sideways(open_page, page_file, width):
    page = open_page(page_file.as_uri(), {"width": width, "height": 800})
    open_details(page)
    inner, outer = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert inner <= outer


def open_details(page):
    """Open a block and an operation, and all else that is folded."""
    page.locator("main details").evaluate_all(
        "nodes => nodes.forEach(node => { node.open = true; })"
    )
    page.locator("#operations details details").first.wait_for()
    page.locator("#operations details details").first.evaluate("node => { node.open = true; }")


def serious_violations(page):
    """What axe-core finds: [rule: what it is about]."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found
        for node in each["nodes"]
        if each["impact"] in SERIOUS
    ]


# ---------------------------------------------------------------- served


@pytest.fixture(scope="module")
def server(model):
    with running(page_server(model, PROMPT, N_GENERATED)) as server:
        yield server


@pytest.fixture
def foreign_site(tmp_path):
    """The address of a page on another origin of this machine."""
    (tmp_path / "index.html").write_text("<!doctype html><title>another page</title>")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=tmp_path)
    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}/index.html"


def compute(page, prompt, n_tokens):
    page.fill("#prompt", prompt)
    page.fill("#n-tokens", str(n_tokens))
    with page.expect_response("**/compute") as response:
        page.click("#prompt-form [type=submit]")
    return response.value


def assert_shows(page, text):
    """That the page shows this text, and what the model expects after it."""
    from playwright.sync_api import expect

    tokens = page.locator("#tokens [data-position]")
    expect(page.locator("#prompt")).to_have_value(text.prompt)  # waits for it
    expect(tokens).to_have_count(len(text.ids))
    probabilities = softmax(text.values["logits"].array[-1])
    best = numbers(page, BARS, "token-id")
    shown = numbers(page, BARS, "probability")
    assert best[0] == np.argmax(probabilities)
    expected = probabilities[np.array(best, int)]
    np.testing.assert_allclose(shown, expected, atol=PROBABILITY_TOLERANCE)


def test_a_served_page_computes_an_edited_prompt(open_page, server, model, text):
    page = open_page(server.url)
    assert_shows(page, text)
    for prompt, n_tokens in [("import os", 3), ("class <script>", 0)]:
        assert compute(page, prompt, n_tokens).status == 200
        assert_shows(page, continued(prompt, model, n_tokens))
    origin = server.url.partition("?")[0]
    assert {url for url in page.requests if not url.startswith("data:")} == {
        server.url,
        f"{origin}compute",
    }


def test_a_probable_token_continues_the_text(open_page, server, model, text):
    """By keyboard, the second best; then the model goes on."""
    _, ids, values = text
    page = open_page(server.url)
    page.fill("#n-tokens", "2")
    second = int(np.argsort(-values["logits"].array[-1])[1])
    page.focus(f'#sampling [data-token-id="{second}"] button')
    with page.expect_response("**/compute"):
        press(page, "Enter")
    assert_shows(page, continued(model[0].decode([*ids, second]), model, 2))


def test_a_mistake_is_told_and_the_page_stays(open_page, server, model, text):
    page = open_page(server.url)
    assert compute(page, "a" * 70_000, 1).status == 413
    status = page.locator("#prompt-status")
    status.get_by_text("too long").wait_for()
    assert "{" not in status.inner_text()
    assert page.locator("#tokens [data-position]").count() == len(text.ids)
    assert "413" in page.errors.pop()  # Chromium reports every refusal
    assert compute(page, PROMPT, N_GENERATED).status == 200
    assert_shows(page, text)


def test_a_page_of_an_earlier_run_is_refused(open_page, server, monkeypatch):
    page = open_page(server.url)
    monkeypatch.setattr(server, "token", "of-a-later-run")
    assert compute(page, "a", 1).status == 403
    page.locator("#prompt-status").get_by_text("token").wait_for()
    assert "403" in page.errors.pop()


def test_a_wrong_token_shows_nothing(open_page, server):
    page = open_page(server.url[:-1])
    assert "def" not in page.content() and "wrong token" in page.inner_text("body")
    assert "403" in page.errors[0]
    page.errors.clear()


ATTACK = """async ([url, token, mode]) => {
    const body = JSON.stringify({prompt: "a", n_tokens: 0});
    const headers = mode === "cors" ? {"X-Token": token} : {};
    try {
        const response = await fetch(url, {method: "POST", body, headers, mode});
        return `${response.type} ${await response.text()}`;
    } catch (error) {
        return "refused";
    }
}"""


def test_another_page_can_neither_ask_nor_read_nor_frame(
    open_page, server, foreign_site, monkeypatch
):
    """Even one that knows the token."""
    questions = []
    monkeypatch.setattr(server, "compute", lambda prompt, n_tokens: questions.append(prompt))
    compute_url = f"{server.url.partition('?')[0]}compute"
    page = open_page(foreign_site)
    arguments = [compute_url, server.token]
    assert page.evaluate(ATTACK, [*arguments, "cors"]) == "refused"
    assert page.evaluate(ATTACK, [*arguments, "no-cors"]) in ("refused", "opaque ")
    page.evaluate(FORM, compute_url)
    page.wait_for_url(compute_url)
    assert "error" in page.inner_text("body")
    page.goto(foreign_site)
    page.evaluate(FRAME, server.url)
    assert page.frames[1].url != server.url
    assert questions == []
    page.errors.clear()  # of all that was refused


def test_another_name_for_this_machine_is_refused(open_page, server, monkeypatch):
    """DNS rebinding: a stranger's page whose name leads here would be of the same origin."""
    questions = []
    monkeypatch.setattr(server, "compute", lambda prompt, n_tokens: questions.append(prompt))
    page = open_page(server.url.replace("127.0.0.1", REBOUND_HOST))
    assert "error" in page.inner_text("body") and "def" not in page.content()
    assert "error" in page.evaluate(ATTACK, ["/compute", server.token, "cors"])
    assert questions == []
    page.errors.clear()  # of all that was refused


# Posts without a script's headers, as any page may.
FORM = """(url) => {
    document.body.innerHTML = "<form method=post enctype=text/plain><input name='{}'></form>";
    document.forms[0].action = url;
    document.forms[0].submit();
}"""
FRAME = """(url) => new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.onload = done;
    frame.src = url;
    document.body.append(frame);
})"""


@pytest.mark.parametrize(("scheme", "viewport"), [("light", WIDE), ("dark", NARROW)])
def test_nothing_serious_is_in_the_way_of_anyone(open_page, server, scheme, viewport):
    """As far as axe-core can tell, of the page with all its parts."""
    page = open_page(server.url, viewport, color_scheme=scheme)
    open_details(page)
    assert serious_violations(page) == []
