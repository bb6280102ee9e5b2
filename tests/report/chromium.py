"""A headless Chromium and a page in it, over its debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PROBLEMS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


@contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """Start one; yields the address of its debugging protocol."""
    assert CHROMIUM is not None
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
            "--force-color-profile=srgb",
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
            raise AssertionError("chromium ended without listening")
    finally:
        process.terminate()
        process.wait(20)


class Page:
    """One tab. ``requests`` and ``errors`` are what it asked for and what went wrong in it."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._sent = socket, 0
        self.requests: list[str] = []
        self.errors: list[Any] = []

    async def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol; its result."""
        self._sent += 1
        await self._socket.send_json({"id": self._sent, "method": method, "params": params})
        while True:
            message = json.loads((await self._socket.receive(timeout=60)).data)
            if message.get("id") == self._sent:
                assert "error" not in message, message
                return message.get("result")
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            elif message.get("method") in PROBLEMS:
                self.errors.append(message["params"])

    async def open(self, url: str, width: int = 1200, height: int = 900) -> None:
        """Load ``url`` in a window of this size, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        await self.call("Page.navigate", url=url)
        while await self.js("document.readyState + location.href") != f"complete{url}":
            await asyncio.sleep(0.05)  # the test's own time limit ends it

    async def js(self, expression: str) -> Any:
        """The value of an expression, as plain JSON."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def press(self, key: str, code: int) -> None:
        """Press and release a key, as on a keyboard."""
        what = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"Enter": "\r"}.get(key)
        down = {**what, **({"text": text} if text else {})}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **down)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    async def screenshot(self) -> bytes:
        """The window as a PNG."""
        found = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(found["data"])


@asynccontextmanager
async def tab(address: str) -> AsyncIterator[Page]:
    """A new tab of the browser at ``address``; closed at the end."""
    import aiohttp

    base = address.split("/devtools/")[0].replace("ws://", "http://")
    async with aiohttp.ClientSession() as session:
        async with session.put(f"{base}/json/new?about:blank") as answer:
            found = await answer.json()
        async with session.ws_connect(found["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page = Page(socket)
            for domain in ("Network", "Runtime", "Log", "Page"):
                await page.call(f"{domain}.enable")
            yield page
        async with session.get(f"{base}/json/close/{found['id']}"):
            pass
