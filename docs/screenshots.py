"""Screenshots of the page: docs/page_light.png, page_dark.png and page_narrow.png.

    python -m docs.screenshots

Of a fixed prompt and the bundled model, so they change only with the page. It needs Chromium and
`pip install -r tests/requirements.txt`. Each file is far below 200 kB: it has 256 colours.
"""

import argparse
import io
import sys
import tempfile
from pathlib import Path

from explaining.page import page_html
from explaining.page_data import page_data
from tests.fixtures import browser
from utils import load_encoder_hparams_and_params

ROOT = Path(__file__).resolve().parent.parent

PROMPT = 'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n    if n'
N_GENERATED = 8
BLOCK, HEAD = "2", "1"
CHOSEN = 12  # a position
# file: the colour scheme, the width and height of the window, and the section at its top
SHOTS = {
    "page_light.png": ("light", 1200, 1040, "#attention"),
    "page_dark.png": ("dark", 1200, 1440, "#overview"),
    "page_narrow.png": ("light", 360, 1560, "#tokens"),
}


def main():
    argparse.ArgumentParser(
        prog="python -m docs.screenshots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    if browser.missing():
        sys.exit(f"docs.screenshots: {browser.missing()}")
    model = load_encoder_hparams_and_params("python", str(ROOT / "models"))
    with tempfile.TemporaryDirectory() as folder, browser.chromium() as chromium:
        page_file = Path(folder, "page.html")
        page_file.write_text(page_html(page_data(PROMPT, model, N_GENERATED)), encoding="utf-8")
        for name, (scheme, width, height, section) in SHOTS.items():
            viewport = {"width": width, "height": height}
            picture = screenshot(chromium, page_file, scheme, viewport, section)
            path = ROOT / "docs" / name
            path.write_bytes(with_few_colours(picture))
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def screenshot(chromium, page_file: Path, scheme: str, viewport: dict, section: str) -> bytes:
    context = chromium.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.locator("#block").select_option(BLOCK)
    page.locator("#head").select_option(HEAD)
    page.click(f'#tokens [data-position="{CHOSEN}"]')
    page.locator(":focus").evaluate("node => node.blur()")
    page.locator(section).evaluate("node => node.scrollIntoView()")
    page.wait_for_timeout(300)
    picture = page.screenshot(animations="disabled")
    context.close()
    return picture


def with_few_colours(png: bytes) -> bytes:
    from PIL import Image  # comes with matplotlib

    image = Image.open(io.BytesIO(png)).convert("RGB")
    image = image.quantize(256, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    main()
