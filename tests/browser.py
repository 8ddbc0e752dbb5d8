"""A headless Chromium, driven over W3C WebDriver: plain HTTP to chromedriver, which Debian has as `chromium-driver`."""

import asyncio
import base64
import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 60
# WebDriver's name for "this is an element", and its keys.
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ENTER, SHIFT, CONTROL, ESCAPE, TAB, RIGHT = "\ue007", "\ue008", "\ue009", "\ue00c", "\ue004", "\ue014"


class ChromiumMissing(Exception):
    """There is no browser, or no driver for it. The message says how to get them."""


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """A browser with a fresh profile in the folder `profile`; yields the address of its WebDriver session.

    Raises:
        ChromiumMissing: chromedriver or its browser is not on the PATH.
    """
    driver = shutil.which("chromedriver")
    binary = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if driver is None or binary is None:
        raise ChromiumMissing("NO CHROMIUM: pages are NOT tried in a browser. Debian: chromium, chromium-driver")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=START_SECONDS, trust_env=False) as client:
            _wait_until_it_answers(client)
            session = f"/session/{_begin(client, binary, profile)}"
            try:
                yield f"http://127.0.0.1:{port}{session}"
            finally:
                client.delete(session)
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait_until_it_answers(client: httpx.Client) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.get("/status")
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _begin(client: httpx.Client, binary: str, profile: Path) -> str:
    # No sandbox: containers do not allow its system calls, and all pages are ours. /dev/shm may be tiny there.
    flags = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
    options = {"binary": binary, "args": [*flags, f"--user-data-dir={profile}"]}
    wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    return str(_value(client.post("/session", json={"capabilities": {"alwaysMatch": wanted}}))["sessionId"])


def _value(reply: httpx.Response) -> Any:
    value = reply.json()["value"]
    if reply.is_error:
        raise RuntimeError(f"{reply.request.url.path}: {value['message']}")
    return value


class Browser:
    """The window of a session. Failing commands raise RuntimeError with the driver's words."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def _post(self, path: str, **body: Any) -> Any:
        return _value(await self._client.post(path, json=body))

    async def open(self, url: str, colors: str = "light", width: int = 1200, height: int = 800) -> None:
        """A page, in a window of so many CSS pixels, for somebody who likes `colors` (light or dark)."""
        scheme = {"features": [{"name": "prefers-color-scheme", "value": colors}]}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self._post("goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params=scheme)
        await self._post("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=size)
        await self.complaints()  # those of the page before
        await self._post("url", url=url)

    async def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a JavaScript function returns."""
        return await self._post("execute/sync", script=script, args=list(arguments))

    async def text(self, selector: str) -> str:
        """What is visible of all that `selector` finds, one a line."""
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText).join('\\n')"
        return str(await self.run(script, selector))

    async def click(self, selector: str) -> None:
        await self._post(f"element/{await self._find(selector)}/click")

    async def type(self, selector: str, text: str) -> None:
        """Keys to a field, in place of what it holds."""
        field = await self._find(selector)
        await self._post(f"element/{field}/clear")
        await self._post(f"element/{field}/value", text=text)

    async def _find(self, selector: str) -> str:
        return str((await self._post("element", using="css selector", value=selector))[_ELEMENT])

    async def press(self, *keys: str) -> None:
        """Keys to whatever has the focus, all held until the last is down."""
        downs = [{"type": "keyDown", "value": key} for key in keys]
        ups = [{"type": "keyUp", "value": key} for key in reversed(keys)]
        await self._post("actions", actions=[{"type": "key", "id": "keyboard", "actions": [*downs, *ups]}])

    async def until(self, script: str, seconds: float = 60) -> None:
        """Wait until the JavaScript expression holds. Raises AssertionError with the page's text if it does not."""
        deadline = time.monotonic() + seconds
        while not await self.run(f"return {script}"):
            assert time.monotonic() < deadline, f"not within {seconds} s: {script}\n{await self.text('body')}"
            await asyncio.sleep(0.02)

    async def complaints(self) -> list[str]:
        """What the console has had to say since it was last asked: errors, violations of the page's policy."""
        return [entry["message"] for entry in await self._post("se/log", type="browser")]

    async def screenshot(self) -> bytes:
        """The window as a PNG."""
        return base64.b64decode(_value(await self._client.get("screenshot")))


@contextlib.asynccontextmanager
async def browser_of(session: str) -> AsyncIterator[Browser]:
    """The browser of a session that `chromium` began."""
    async with httpx.AsyncClient(base_url=f"{session}/", timeout=START_SECONDS, trust_env=False) as client:
        yield Browser(client)
