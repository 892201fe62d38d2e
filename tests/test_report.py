"""The page of a search: what is in it, what cannot get into it, and that it works in a browser."""

import base64
import csv
import hashlib
import html
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from factories import Run, write_picture

from indexer.phantoms import draw, write_cohort

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>{{ 7*7 }}"


def image(cohort: Path, number: int = 0) -> Path:
    return sorted(cohort.parent.rglob("*.dcm"))[number]


def report(cxrsearch: Run, out: Path, *arguments: object) -> str:
    ran = cxrsearch("search", *arguments, "--report", out)
    assert ran.code == 0, ran.err
    assert f"report: {out}" in ran.out
    return out.read_text("utf-8")


class Page(HTMLParser):
    """Tags with their attributes, and the text that is shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.shown = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.shown += data


def test_a_page_says_everything_and_needs_nothing_else(
    cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path
) -> None:
    text = report(
        cxrsearch,
        tmp_path / "r.html",
        image(cohort),
        "--index",
        index,
        "-k",
        20,
        "--vote",
        "outcome",
        "--where",
        'notes contains "opacities"',
    )
    page = Page(text)
    assert (tmp_path / "r.html").stat().st_size < 5_000_000
    assert (tmp_path / "r.html").stat().st_mode & 0o777 == 0o600
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base")
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    assert "http" not in re.sub(r"data:image[^\"]*", "", text).replace("http-equiv", "")
    for wanted in (
        "missing",
        "its own patient",
        "Vote on outcome",
        "in the cohort",
        "cxrsearch search IMAGE",
        "cxr-1",
        "32 x 32 thumbnails",
        "Not for: diagnosis",
        "opacities",
        "hit 1",
    ):
        assert wanted in page.shown, wanted
    assert "<mark>opacities</mark>" in text
    assert sum(tag == "mark" for tag, _ in page.tags) >= 5
    assert image(cohort).name not in page.shown


def test_the_policy_lets_the_pages_own_script_run_and_no_other(
    cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path
) -> None:
    text = html.unescape(report(cxrsearch, tmp_path / "r.html", image(cohort), "--index", index))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)  # type: ignore[union-attr]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy


def test_the_name_of_the_query_is_not_in_the_page(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    named = tmp_path / "Mustermann_Erika_1964.png"
    write_picture(named, draw("COVID-19", 7))
    text = report(cxrsearch, tmp_path / "r.html", named, "--index", index, "--like", named)
    assert "Mustermann" not in text


def test_the_command_of_a_page_is_quoted_and_names_no_folder(
    cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path
) -> None:
    text = report(
        cxrsearch, tmp_path / "Mustermann.html", image(cohort), "--index", index, "--where", "site = 'South'", "-k", 3
    )
    command = re.search(r"<dt>command</dt><dd>(.*?)</dd>", text).group(1)  # type: ignore[union-attr]
    words = shlex.split(html.unescape(command))
    expected = ["IMAGE", "--index", index.name, "--where", "site = 'South'", "-k", "3", "--report", "FILE.html"]
    assert words == ["cxrsearch", "search", *expected]


def test_script_in_every_field_stays_text(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=12, size=96)
    with (tmp_path / "set/clinical.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    for number, row in enumerate(rows):
        row |= dict.fromkeys(("site", "finding", "outcome", "sex", "notes"), f"{EVIL}{number % 2}")
    with (tmp_path / "set/clinical.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    index = tmp_path / "index"
    assert cxrsearch("index", toml, "--index", index).code == 0
    text = report(
        cxrsearch,
        tmp_path / "r.html",
        image(toml),
        "--index",
        index,
        "--vote",
        "outcome",
        "--where",
        'notes contains "alert"',
    )
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert all(attributes.get("src", "data:").startswith("data:") for _, attributes in page.tags)  # type: ignore[union-attr]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.shown.count("<script>alert(1)</script>") >= 4 * 10
    assert "{{ 7*7 }}" in page.shown


def test_a_page_without_pictures_says_that_they_are_not_here(cxrsearch: Run, tmp_path: Path) -> None:
    toml, index = write_cohort(tmp_path / "set", patients=6, size=96), tmp_path / "index"
    text = toml.read_text("utf-8").replace("free_text = true", "free_text = true\nthumbnails = false")
    toml.write_text(text, "utf-8")
    assert cxrsearch("index", toml, "--index", index).code == 0
    query = image(toml).rename(tmp_path / "query.dcm")
    for original in toml.parent.rglob("*.dcm"):
        original.unlink()
    page = Page(report(cxrsearch, tmp_path / "r.html", query, "--index", index))
    assert page.shown.count("its picture is not here") >= 6  # five hits and the pair


def test_a_page_that_cannot_be_written(cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path) -> None:
    ran = cxrsearch("search", image(cohort), "--index", index, "--report", tmp_path)
    assert (ran.code, "write to a file that ends in .html" in ran.err) == (2, True)
    ran = cxrsearch("search", image(cohort), "--index", index, "--report", tmp_path / "missing" / "page.html")
    assert (ran.code, "page.html: cannot be written (No such file" in ran.err) == (4, True)
    assert not (tmp_path / "missing").exists()


@pytest.fixture(scope="module")
def browser() -> Any:
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium), which is not here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.slow
def test_the_controls_do_what_they_say(cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path, browser: Any) -> None:
    """Clicked and typed at in Chromium; the pictures it takes differ where something was to be seen."""
    report(cxrsearch, tmp_path / "r.html", image(cohort), "--index", index, "-k", 12)
    page = browser.new_page(viewport={"width": 1300, "height": 1400})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "r.html").as_uri())
    pair, seen = page.locator(".pair"), {}

    def look(name: str) -> None:
        seen[name] = hashlib.sha256(pair.screenshot()).hexdigest()

    look("first")
    page.click("#invert")
    assert page.get_attribute("#invert", "aria-pressed") == "true"
    look("inverted")
    page.keyboard.press("i")
    look("back")
    assert seen["back"] == seen["first"] != seen["inverted"]
    page.click("#maps")
    look("maps")
    page.keyboard.press("m")
    page.focus("#width")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    look("narrower window")
    assert page.locator("#window feFuncR").get_attribute("slope").startswith("1.0")
    page.focus("#zoom")
    for _ in range(60):
        page.keyboard.press("ArrowRight")
    look("zoomed")
    box = pair.locator(".asked .view").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 120)
    page.mouse.up()
    look("moved")
    page.click("#reset")
    look("reset")
    assert seen["reset"] == seen["first"]
    page.click(".hits > li:nth-child(4) .choose")
    assert page.locator(".found figcaption").inner_text().startswith("hit 4,")
    look("another hit")
    page.keyboard.press("ArrowRight")
    assert page.locator(".found figcaption").inner_text().startswith("hit 5,")
    assert page.locator(".hits > li.chosen").count() == 1
    assert len(set(seen.values())) == len(seen) - 2  # back and reset look as the first
    assert complaints == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1920, "dark")])
def test_a_page_fits_phones_and_wide_screens(
    cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path, browser: Any, width: int, scheme: str
) -> None:
    report(cxrsearch, tmp_path / "r.html", image(cohort), "--index", index, "--vote", "outcome")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto((tmp_path / "r.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")
    page.emulate_media(media="print")
    assert not page.is_visible("#invert")
    assert page.is_visible(".hits > li:last-child .xray")
    page.close()


def test_a_page_is_not_written_under_a_name_of_another_kind(
    cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path
) -> None:
    for name in ("out.pdf", "out", "missing/out.html"):
        ran = cxrsearch("search", image(cohort), "--index", index, "--report", tmp_path / name)
        assert ran.code == (4 if name.endswith(".html") else 2)
        assert "cannot be written" in ran.err or "ends in .html" in ran.err
    assert cxrsearch("transfer", "--index", index, "--target", "icu", "--out", tmp_path / "out.pdf").code == 2
    assert not list(tmp_path.glob("out*"))
    assert not (tmp_path / "missing").exists()
