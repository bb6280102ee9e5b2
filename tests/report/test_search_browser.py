"""The page of a search in a real browser, wide and on a phone: all is seen, nothing is cut."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, Page, chromium, tab
from report_example import example_report
from search_samples import search_part, several_sources, with_long_names

from msm_ray.report.html import render_html

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]

SEEN = """
(() => {
  const seen = [...document.querySelectorAll('#search svg')].filter(e => e.checkVisibility());
  const box = e => {
    const r = e.getBoundingClientRect();
    return [r.left, r.top, r.right, r.bottom];
  };
  return {
    figures: seen.map(e => [e.getAttribute('class'), e.getBoundingClientRect().height]),
    scroll: document.documentElement.scrollWidth,
    clipped: seen.flatMap(s => {
      const [left, top, right, bottom] = box(s);
      return [...s.querySelectorAll('text')].filter(t => {
        const b = box(t);
        return b[0] < left - 1 || b[2] > right + 1 || b[1] < top - 1 || b[3] > bottom + 1;
      }).map(t => t.textContent);
    }),
  };
})()
"""
MARKS = """
(() => {
  const svg = [...document.querySelectorAll('svg.ternary')].find(e => e.checkVisibility());
  svg.scrollIntoView();
  const box = e => {
    const r = e.getBoundingClientRect();
    return [r.left, r.top, r.right, r.bottom];
  };
  return {
    triangle: box(svg.querySelector('.triangle')),
    marks: [...svg.querySelectorAll('[data-trial]')].map(e => [e.dataset.trial, ...box(e)]),
  };
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A headless Chromium for all tests here; yields the address of its debugging protocol."""
    with chromium(tmp_path_factory.mktemp("profile")) as address:
        yield address


@pytest.fixture
def on_page(browser: str, tmp_path: Path) -> Callable[..., Any]:
    """Open the page of a search and do something there; nothing may go wrong in it."""

    def run(part: dict[str, Any], act: Callable[[Page], Awaitable[Any]], width: int) -> Any:
        path = tmp_path / "page.html"
        report = example_report(bases=("base-0",)) | {"search": part}
        path.write_text(render_html(report), encoding="utf-8")

        async def whole() -> Any:
            async with tab(browser) as page:
                await page.open(path.as_uri(), width)
                found = await act(page)
                assert page.errors == []
                assert all(u.startswith(("file://", "data:")) for u in page.requests)
                return found

        return asyncio.run(asyncio.wait_for(whole(), 120))

    return run


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("sources", [2, 3, 4])
def test_every_figure_is_seen_whole(on_page: Any, sources: int, width: int) -> None:
    part = search_part() if sources == 3 else several_sources(sources)
    if sources > 2:
        part = with_long_names(part)
    found = on_page(part, lambda page: page.js(SEEN), width)
    layout = "wide" if width == 1200 else "narrow"
    names = {name.removeprefix(f"figure {layout} ") for name, _ in found["figures"]}
    own = {3: {"ternary", "pareto", "rungs"}, 2: {"shares", "cost-of"}}.get(sources, {"cost-of"})
    assert own | {"parallel"} <= names
    assert all(height > 40 for _, height in found["figures"])
    assert found["scroll"] <= width  # wide tables scroll in their own box
    assert found["clipped"] == []


@pytest.mark.parametrize("width", [1200, 390])
def test_marks_lie_in_the_triangle_and_the_winner_has_its_colour(on_page: Any, width: int) -> None:
    from PIL import Image

    async def act(page: Page) -> Any:
        return await page.js(MARKS), await page.screenshot()

    found, png = on_page(search_part(), act, width)
    left, top, right, bottom = found["triangle"]
    middles = {n: ((a + c) / 2, (b + d) / 2) for n, a, b, c, d in found["marks"]}
    assert len(middles) == 24
    for x, y in middles.values():
        half = (y - top) / (bottom - top) * (right - left) / 2
        assert top - 1 <= y <= bottom + 1
        assert abs(x - (left + right) / 2) <= half + 1
    shot = Image.open(io.BytesIO(png)).convert("RGB")
    x, y = middles["12"]
    assert shot.getpixel((round(x), round(y))) == (11, 26, 79)  # the strongest of the scale


def test_the_table_is_sorted_and_filtered_and_the_job_can_be_copied(on_page: Any) -> None:
    async def act(page: Page) -> Any:
        table = "document.querySelector('table.trials')"
        await page.js(f"{table}.tHead.rows[0].cells[1].querySelector('button').click()")
        numbers = f"[...{table}.tBodies[0].rows].map(r => r.cells[1].dataset.v)"
        found = {"sorted": await page.js(numbers)}
        choose = (
            "(() => { const s = document.querySelector('#search .tools select');"
            " s.value = 'stopped'; s.dispatchEvent(new Event('change')); })()"
        )
        await page.js(choose)
        found["counted"] = await page.js(
            "document.querySelector('#search .tools output').textContent"
        )
        await page.js("document.querySelector('.copy button').click()")
        found["marked"] = await page.js("getSelection().toString()")
        found["said"] = await page.js("document.querySelector('.copy button').textContent")
        return found

    part = search_part()
    found = on_page(part, act, 1200)
    assert found["sorted"] == [str(i) for i in reversed(range(24))]
    assert found["counted"] == "5 of 24 rows"
    # A page without leave to write to the clipboard marks the text, to be copied by hand.
    assert found["said"] in ("Copied", "Marked: copy it now")
    if found["said"] != "Copied":
        assert found["marked"].strip() == part["recommended"]["source"].strip()


def test_on_paper_the_table_fits_and_is_cut_with_a_word(on_page: Any) -> None:
    async def act(page: Page) -> Any:
        await page.call("Emulation.setEmulatedMedia", media="print")
        counted = "[...document.querySelectorAll('%s')].filter(e => e.checkVisibility()).length"
        return {
            "width": await page.js("document.querySelector('table.trials').scrollWidth"),
            "rows": await page.js(counted % "table.trials tbody tr"),
            "button": await page.js(counted % ".copy button"),
            "said": await page.js(counted % "#search .printed"),
        }

    paper = round(8.27 * 96 - 2 * 0.4 * 96)  # A4 with a browser's usual margins, in CSS pixels
    found = on_page(search_part(60), act, paper + 15)  # and the window's scroll bar
    assert found.pop("width") <= paper
    assert found == {"rows": 40, "button": 0, "said": 1}
