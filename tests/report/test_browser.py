"""The page in a real browser: what is seen, sorted, filtered and printed, and nothing asked for."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, Page, chromium, tab
from report_example import RATES, example_report, suite_report

from msm_ray.compare import comparison
from msm_ray.report.comparison import render_comparison
from msm_ray.report.html import render_html

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]

# What a reader of the page must see: laid out, not empty, inside the window's width.
SEEN = """
(() => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.right, r.height]; };
  const shown = s => [...document.querySelectorAll(s)].filter(e => e.checkVisibility()).map(box);
  return {
    parts: PARTS.map(s => [s, shown(s)]),
    scroll: document.documentElement.scrollWidth,
    clipped: [...document.querySelectorAll('svg')].filter(e => e.checkVisibility()).flatMap(s => {
      const r = s.getBoundingClientRect();
      return [...s.querySelectorAll('text')].filter(t => {
        const b = t.getBoundingClientRect();
        return b.left < r.left - 1 || b.right > r.right + 1;
      }).map(t => t.textContent);
    }),
  };
})()
"""
PARTS = ["h1", ".headline", "#the-figure svg", "#the-figure svg text", "#effects svg"]
PARTS += [f"#{name} table" for name in ("effects", "evaluations", "domains", "items", "corpus")]
PARTS += ["#samples .answers", "#mixtures table", ".multiples svg", "#cost dl", "#provenance table"]

# The table by item: what its cells in a column say, in the order in which they are seen.
COLUMN = """
[...document.querySelector('#items table').tBodies[0].rows].filter(r => !r.hidden)
  .map(r => r.cells[%d].textContent)
"""
HEADS = "[...document.querySelector('#items table').tHead.rows[0].cells]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A headless Chromium for all tests here; yields the address of its debugging protocol."""
    with chromium(tmp_path_factory.mktemp("profile")) as address:
        yield address


@pytest.fixture
def on_page(browser: str, tmp_path: Path) -> Callable[..., Any]:
    """Write a page, open it and do something there; nothing may go wrong or be asked for in it."""

    def run(
        html: str, act: Callable[[Page], Awaitable[Any]], width: int = 1200, scripts: bool = True
    ) -> Any:
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")

        async def whole() -> Any:
            async with tab(browser) as page:
                await page.call("Emulation.setScriptExecutionDisabled", value=not scripts)
                await page.open(path.as_uri(), width)
                found = await act(page)
                outside = [u for u in page.requests if not u.startswith(("file://", "data:"))]
                assert outside == []
                assert path.as_uri() in page.requests
                assert page.errors == []
                return found

        return asyncio.run(asyncio.wait_for(whole(), 120))

    return run


def seen(parts: list[str]) -> Callable[[Page], Awaitable[Any]]:
    return lambda page: page.js(SEEN.replace("PARTS", str(parts)))


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("kind", ["comparison", "suite", "two runs"])
def test_the_page_opens_clean_and_shows_its_parts(on_page: Any, kind: str, width: int) -> None:
    parts, html = PARTS, render_html(example_report())
    if kind == "suite":
        parts, html = [*PARTS, "#curves svg", "#curves table"], render_html(suite_report())
    elif kind == "two runs":
        parts = ["h1", "#effects svg", "#effects table", "#settings table", "#rates table"]
        changed = example_report()
        changed["provenance"]["settings"]["aft"]["train"]["learning_rate"] = 1e-4
        html = render_comparison(comparison(example_report(), changed))
    found = on_page(html, seen(parts), width)
    for part, boxes in found["parts"]:
        assert boxes, f"{part} is not to be seen at {width}"
        assert all(height > 0 for _, _, height in boxes), part
    assert found["scroll"] <= width  # wide tables scroll in their own box
    assert found["clipped"] == []


def test_on_a_phone_the_answers_stand_below_each_other(on_page: Any) -> None:
    lefts = (
        "[...document.querySelector('#samples .answers').children]"
        ".map(e => Math.round(e.getBoundingClientRect().left))"
    )
    html = render_html(example_report())
    assert len(set(on_page(html, lambda page: page.js(lefts), 390))) == 1
    assert len(set(on_page(html, lambda page: page.js(lefts), 1200))) > 3


def test_a_table_is_sorted_by_its_headings_with_the_keyboard(on_page: Any) -> None:
    report = example_report()
    items = report["items"]["choice"]
    for i, item in enumerate(items):
        item["rates"]["aft"] = (i * 7 % len(items)) / len(items)
    del items[3]["rates"]["aft"]
    column = 5  # item, domain, chosen, prompt, base, aft

    async def act(page: Page) -> Any:
        states = f"{HEADS}.map(h => h.getAttribute('aria-sort'))"
        await page.js(f"{HEADS}[{column}].querySelector('button').focus()")
        found = []
        for key, code in (("Enter", 13), (" ", 32)):
            await page.press(key, code)
            found.append((await page.js(COLUMN % column), await page.js(states)))
        return found

    down, up = on_page(render_html(report), act)
    for (shown, states), state, sign in ((down, "descending", -1), (up, "ascending", 1)):
        assert states[column] == state
        assert states.count("none") == len(states) - 1
        assert shown[-1] == ""  # what was not measured comes last either way
        numbers = [float(x) for x in shown[:-1]]
        assert numbers == sorted(numbers, key=lambda x: sign * x)
        assert len(set(numbers)) == len(items) - 1


def test_rows_are_filtered_by_words_and_by_choice_and_counted(on_page: Any) -> None:
    async def act(page: Page) -> Any:
        found = {}
        await page.js("document.querySelector('#items .tools input').focus()")
        await page.call("Input.insertText", text="Wines x1")
        counted = "document.querySelector('#items .tools output').textContent"
        found["words"] = (await page.js(COLUMN % 0), await page.js(counted))
        await page.js("document.querySelector('#items .tools input').select()")
        await page.press("Delete", 46)
        choose = (
            "(() => { const s = document.querySelectorAll('#items .tools select')[1];"
            " s.value = 'random'; s.dispatchEvent(new Event('change')); })()"
        )
        await page.js(choose)
        found["choice"] = (await page.js(COLUMN % 2), await page.js(counted))
        labels = "[...document.querySelectorAll('#items .tools :is(input, select)')]"
        found["labels"] = await page.js(f"{labels}.map(e => e.ariaLabel)")
        return found

    found = on_page(render_html(example_report()), act)
    assert found["words"] == (["choice-wines-1"], "1 of 18 rows")
    assert found["choice"] == (["random"] * 9, "9 of 18 rows")
    assert found["labels"] == [
        "Filter: choice by item",
        "domain: choice by item",
        "chosen: choice by item",
    ]


def test_without_scripts_it_is_the_same_page_with_plain_tables(on_page: Any) -> None:
    async def act(page: Page) -> Any:
        root = (await page.call("DOM.getDocument"))["root"]["nodeId"]
        found = {}
        for selector in ("#items tbody tr", "button", ".tools", "#samples .answers"):
            nodes = await page.call("DOM.querySelectorAll", nodeId=root, selector=selector)
            found[selector] = len(nodes["nodeIds"])
        return found

    html = render_html(example_report())
    assert on_page(html, act, scripts=False) == {
        "#items tbody tr": 18,
        "button": 0,
        ".tools": 0,
        "#samples .answers": 6,
    }


def test_a_script_in_the_data_would_not_run(on_page: Any) -> None:
    report = example_report()
    html = render_html(report).replace(
        "</main>", "<img src='x' onerror='document.title = 1'><script>document.title = 2</script>"
    )

    async def act(page: Page) -> Any:
        title = await page.js("document.title")
        refused = [e["entry"]["text"] for e in page.errors if "entry" in e]
        page.errors.clear()
        return title, refused

    title, refused = on_page(html, act)
    assert title == report["title"]
    assert len(refused) == 3  # the image, what it runs on an error, and the script
    assert all("Content Security Policy" in text for text in refused)


def test_on_paper_everything_is_open_and_tables_are_cut_with_a_word(on_page: Any) -> None:
    report = example_report()
    report["items"]["choice"] = report["items"]["choice"] * 3

    async def act(page: Page) -> Any:
        await page.call("Emulation.setEmulatedMedia", media="print")
        shown = "[...document.querySelectorAll('%s')].filter(e => e.checkVisibility()).length"
        names = ["nav", ".tools", "#items tbody tr", ".printed", "#samples .answers", "pre"]
        found = {name: await page.js(shown % name) for name in names}
        await page.call("Emulation.setEmulatedMedia", media="")
        paper = await page.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return found, base64.b64decode(paper["data"])

    found, pdf = on_page(render_html(report), act)
    assert found["nav"] == found[".tools"] == 0
    assert found["#items tbody tr"] == 20
    assert found[".printed"] == 1
    assert found["pre"] == 1
    assert found["#samples .answers"] == 6
    assert pdf.startswith(b"%PDF")
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 40


def test_the_screenshot_shows_every_arm_where_its_rate_is(on_page: Any) -> None:
    """The black point of an arm lies at its rate, whatever the fonts; and a warning is on top."""
    from PIL import Image

    report = example_report()
    report["problems"] = ["a judge refused all items"]
    places = """
    (() => {
      const svg = document.querySelector('#the-figure svg.wide');
      const r = svg.getBoundingClientRect();
      const texts = [...svg.querySelectorAll('text')];
      const ticks = texts.filter(t => ['0', '1'].includes(t.textContent));
      const middle = t => { const b = t.getBoundingClientRect(); return (b.left + b.right) / 2; };
      return { left: r.left, right: r.right, top: r.top, bottom: r.bottom,
               zero: middle(ticks[0]), one: middle(ticks[1]) };
    })()
    """

    async def act(page: Page) -> Any:
        top = await page.screenshot()
        await page.js("document.querySelector('#the-figure').scrollIntoView()")
        return top, await page.js(places), await page.screenshot()

    first, at, second = on_page(render_html(report), act)
    window = Image.open(io.BytesIO(first)).convert("RGB")
    assert window.getpixel((600, 45)) == (253, 238, 233)  # the banner's paper, above the title
    figure = Image.open(io.BytesIO(second)).convert("RGB")
    rows = [
        [x for x in range(int(at["zero"]), int(at["one"])) if _is_ink(figure, x, y)]
        for y in range(int(at["top"]), int(at["bottom"]))
    ]
    # A point is the only thing in ink that is wider than an end of a bar and higher than a bar.
    middles = []
    for above, row, below in zip(rows, rows[2:], rows[4:], strict=False):
        run: list[int] = []
        for x in [*sorted(set(above) & set(row) & set(below)), 10**6]:
            if run and x != run[-1] + 1:
                middles += [(run[0] + run[-1] + 1) / 2] if 5 <= len(run) <= 13 else []
                run = []
            run.append(x)
    found = [(m - at["zero"]) / (at["one"] - at["zero"]) for m in middles]
    for arm in RATES:
        rate = report["arms"][arm]["evals"]["choice"]["rate"]
        assert any(abs(rate - f) < 0.01 for f in found), f"{arm}: no point at {rate} of {found}"


def _is_ink(image: Any, x: int, y: int) -> bool:
    return bool(max(image.getpixel((x, y))) < 60)
