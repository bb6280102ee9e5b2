"""The page in a real browser: no console error, no request, the key parts in sight."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_example import example_report

from msm_ray.report.html import render_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]

PROBLEMS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")

# What a reader of the page must see: laid out, not empty, inside the window's width.
SEEN = """
(() => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.right, r.height]; };
  const shown = s => [...document.querySelectorAll(s)].filter(e => e.checkVisibility()).map(box);
  return {
    parts: ['h1', '.headline', '#the-figure svg', '#the-figure svg text', '#effects svg',
            '#evaluations table', '#domains table', '#corpus table', '.multiples svg',
            '#cost dl', '#provenance table'].map(s => [s, shown(s)]),
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


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[str]:
    """A headless Chromium; yields the address of its debugging protocol."""
    assert CHROMIUM is not None
    profile = tmp_path / "profile"
    process = subprocess.Popen(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "DevTools listening on " in line:
                yield line.split("DevTools listening on ")[1].strip()
                break
        else:
            pytest.fail("chromium ended without listening")
    finally:
        process.terminate()
        process.wait(20)


async def look(address: str, url: str, width: int) -> dict[str, Any]:
    """Open ``url`` in a window of ``width``: what is seen, what was requested, what went wrong."""
    import aiohttp

    base = address.split("/devtools/")[0].replace("ws://", "http://")
    requests: list[str] = []
    errors: list[Any] = []
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{base}/json/list") as answer:
            page = next(t for t in await answer.json() if t["type"] == "page")
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            sent = 0

            async def call(method: str, **params: Any) -> Any:
                nonlocal sent
                sent += 1
                await socket.send_json({"id": sent, "method": method, "params": params})
                while True:
                    message = json.loads((await socket.receive(timeout=30)).data)
                    if message.get("id") == sent:
                        return message.get("result")
                    note(message)

            def note(message: dict[str, Any]) -> None:
                params = message.get("params", {})
                if message.get("method") == "Network.requestWillBeSent":
                    requests.append(params["request"]["url"])
                elif message.get("method") in PROBLEMS:
                    errors.append(params)

            for domain in ("Network", "Runtime", "Log", "Page"):
                await call(f"{domain}.enable")
            await call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=900,
                deviceScaleFactor=1,
                mobile=False,
            )
            await call("Page.navigate", url=url)
            for _ in range(100):
                state = await call("Runtime.evaluate", expression="document.readyState + location")
                if state["result"]["value"].startswith("completefile"):
                    break
                await asyncio.sleep(0.1)
            seen = await call("Runtime.evaluate", expression=SEEN, returnByValue=True)
    return {**seen["result"]["value"], "requests": requests, "errors": errors}


def test_the_page_opens_clean_and_shows_its_parts(browser: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_html(example_report()), encoding="utf-8")
    for width in (1200, 480):
        found = asyncio.run(look(browser, page.as_uri(), width))
        assert found["errors"] == []
        outside = [u for u in found["requests"] if not u.startswith(("file://", "data:"))]
        assert outside == []
        assert page.as_uri() in found["requests"]
        for part, boxes in found["parts"]:
            assert boxes, f"{part} is not to be seen at {width}"
            assert all(height > 0 for _, _, height in boxes), part
        assert found["scroll"] <= width  # wide tables scroll in their own box
        assert found["clipped"] == []
