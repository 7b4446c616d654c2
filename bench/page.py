"""The page of `explain.py`, at the shape of GPT-2 124M with random weights: seconds, megabytes.

The page shows 64 tokens: a prompt of 44 and 20 generated. With `--serve` the prompt changes; the
time is that from the request to its answer. In Chromium, where it and Playwright are installed:
from opening the file, and from the button "Compute", until the page is drawn. Medians of the
rounds.

Half a minute on two cores.
"""

import json
import statistics
import sys
import tempfile
import urllib.request
from pathlib import Path

from bench.measure import Options, machine, print_table, random_model, seconds, write_json
from explaining.page import page_html
from explaining.page_data import page_data
from explaining.server import PageServer, page_server
from tests.fixtures.browser import chromium, missing
from tests.fixtures.http_server import running
from utils import load_encoder_hparams_and_params

ROUNDS = 3
N_PROMPT, N_GENERATED = 44, 20  # tokens
# Drawn: all scripts have run, and the next picture has been made.
DRAWN = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))"


def main():
    options = Options("bench.page", __doc__)
    options.add_argument("--model", metavar="FOLDER", help="a model folder (a new random 124M)")
    options.add_json()
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model_folder = Path(arguments.model) if arguments.model else random_model(folder)
        figures = measure(model_folder, Path(folder, "page.html"))
    figures = {"machine": machine(("playwright",)), **figures}
    names = {
        "computing": "computing, s",
        "megabytes": "the file, MB",
        "opening": "opening it in Chromium, s",
        "served": "served: changed prompt to its data, s",
        "served_and_drawn": "to the new page in Chromium, s",
    }
    row = [f"{figures[name]:.2f}" if name in figures else "" for name in names]
    shape = arguments.model or "the shape of GPT-2 124M"
    title = f"The page of {N_PROMPT + N_GENERATED} tokens, {shape}"
    print_table(title, figures["machine"], list(names.values()), [row])
    write_json(figures, arguments.json)


def measure(model_folder: Path, page_file: Path) -> dict[str, float]:
    """{figure: its value}; those that need a browser only where there is one."""
    model = load_encoder_hparams_and_params(model_folder.name, str(model_folder.parent))
    prompts = [prompt(n) for n in range(ROUNDS + 1)]  # the first warms up
    times = [seconds(page_data, text, model, N_GENERATED) for text in prompts]
    figures = {"computing": statistics.median(taken for taken, _ in times[1:])}
    data = times[0][1]
    assert len(data["ids"]) == N_PROMPT + N_GENERATED
    page_file.write_text(page_html(data), encoding="utf-8")
    figures["megabytes"] = page_file.stat().st_size / 1e6
    with running(page_server(model, prompts[0], N_GENERATED)) as server:
        times = [seconds(ask, server, text)[0] for text in prompts]
        figures["served"] = statistics.median(times[1:])
        if missing():
            print(f"bench.page: {missing()}", file=sys.stderr)
        else:
            figures |= measure_in_browser(page_file, server, prompts)
    return figures


def measure_in_browser(page_file: Path, server: PageServer, prompts: list[str]) -> dict[str, float]:
    with chromium() as browser:
        page = browser.new_page()

        def open_page(address: str) -> None:
            page.goto(address)
            page.evaluate(DRAWN)

        def compute(text: str) -> None:
            page.fill("#prompt", text)
            with page.expect_response("**/compute"):
                page.click("#prompt-form button[type=submit]")
            page.locator("#prompt-status").get_by_text("Done").wait_for()
            page.evaluate(DRAWN)

        opening = [seconds(open_page, page_file.as_uri())[0] for _ in prompts]
        open_page(server.url)
        served = [seconds(compute, text)[0] for text in reversed(prompts)]
    return {
        "opening": statistics.median(opening[1:]),
        "served_and_drawn": statistics.median(served[1:]),
    }


def prompt(n: int) -> str:
    """A text of N_PROMPT tokens, another one for each n from 0 to 9."""
    return " ".join(["word"] * (N_PROMPT - 1) + [str(n)])


def ask(server: PageServer, text: str) -> dict:
    question = json.dumps({"prompt": text, "n_tokens": N_GENERATED}).encode()
    address = server.url.partition("?")[0] + "compute"
    request = urllib.request.Request(address, question, {"X-Token": server.token})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
