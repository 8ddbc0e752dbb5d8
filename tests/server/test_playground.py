"""The playground before a real model. TEXTGEN_SCREENSHOT=FILE keeps a picture of it."""

import asyncio
import os
from pathlib import Path

import pytest
from browser import ENTER, ChromiumMissing, browser_of, chromium

QUESTIONS = ("What is the capital of France?", "Why do people visit it?")


def test_a_visitor_gets_answers(server, tmp_path) -> None:
    try:
        with chromium(tmp_path) as session:
            picture = asyncio.run(visit(session, server.url))
    except ChromiumMissing as missing:
        pytest.skip(str(missing))
    if file := os.environ.get("TEXTGEN_SCREENSHOT"):
        Path(file).write_bytes(picture)


async def visit(session: str, url: str) -> bytes:
    """A window in which all questions have been answered, as a PNG."""
    async with browser_of(session) as browser:
        await browser.open(f"{url}/playground", width=1100, height=720)
        await browser.until("document.querySelector('.model.up')?.innerText === 'smollm2'")
        for field, value in {"max_tokens": "96", "temperature": "0"}.items():
            await browser.type(f"#{field}", value)
        for number, question in enumerate(QUESTIONS, start=1):
            await browser.type("#prompt", question)
            await browser.press(ENTER)
            await browser.until(f"document.querySelectorAll('.answer:not(.busy)').length === {number}", seconds=60)
        assert "Paris" in await browser.text(".answer")
        assert "tokens/s" in await browser.text(".numbers")
        assert await browser.text(".error") == ""
        assert await browser.complaints() == []
        return await browser.screenshot()
