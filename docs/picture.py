"""Takes docs/report.png, the README's picture: a report on phantoms in Chromium. Needs Debian's chromium.

make demo && .venv-dev/bin/python docs/picture.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

REPORT = Path("demo/report.html")
PICTURE = Path(__file__).parent / "report.png"

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1000, "height": 1010})
    page.goto(REPORT.resolve().as_uri())
    page.click("#maps")
    page.screenshot(path=PICTURE)
    browser.close()
# Few colours are in it: a palette takes a third of the bytes.
Image.open(PICTURE).convert("RGB").quantize(128).save(PICTURE, optimize=True)
