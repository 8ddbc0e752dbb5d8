"""What people open in a browser: /playground and /docs. Tried in a real one where there is one."""

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from browser import CONTROL, ENTER, ESCAPE, RIGHT, SHIFT, TAB, Browser, ChromiumMissing, browser_of, chromium
from front import Front, listening, until

TEXT = "deep learning is the fox"
ENDED = "!document.querySelector('.busy') && document.querySelector('.answer')"


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        with chromium(tmp_path_factory.mktemp("chromium")) as session:
            yield session
    except ChromiumMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
async def browser(session: str) -> AsyncIterator[Browser]:
    async with browser_of(session) as browser:
        yield browser


@pytest.fixture
async def address(front: Front) -> AsyncIterator[str]:
    async with listening(front) as address:
        yield address


async def opened(browser: Browser, address: str, max_tokens: int = 64, **window: object) -> None:
    await browser.open(f"{address}/playground", **window)
    await browser.until("document.querySelector('.model.up')")
    await browser.type("#max_tokens", str(max_tokens))


@pytest.mark.parametrize("path", ["/playground", "/docs"])
async def test_pages_allow_only_what_is_in_them(front: Front, path: str) -> None:
    page = await front.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(each.split(" ", 1) for each in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in page.headers["content-security-policy"]
    for kind in ("script", "style"):
        for content in re.findall(f"<{kind}>(.*?)</{kind}>", page.text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy[f"{kind}-src"]


@pytest.mark.parametrize("path", ["/playground", "/docs"])
async def test_pages_load_nothing_from_elsewhere(front: Front, path: str) -> None:
    page = (await front.get(path)).text
    for link in re.findall(r"""(?:src|href)=["']([^"']+)""", page):
        if not link.startswith("data:"):
            assert "//" not in link
            assert (await front.get(f"/{link}")).status_code == 200, link


async def test_an_answer_streams_in_and_is_measured(browser: Browser, front: Front, address: str) -> None:
    front.engine.hang_after = len(front.engine.script) - 1
    await opened(browser, address)
    await browser.type("#prompt", "hello")
    await browser.press(ENTER)
    await browser.until("document.querySelector('.busy .says')?.innerText.startsWith('deep')")
    assert await browser.text(".answer .says") != TEXT
    front.engine.released.set()
    await browser.until(ENDED)
    assert await browser.text(".answer .says") == TEXT
    numbers = await browser.text(".numbers")
    measured = re.search(r"(\d+) tokens\s+([\d.]+) tokens/s\s+(\d+) ms to the first\s+complete", numbers)
    assert measured, numbers
    assert int(measured[1]) == len(front.engine.script) + 1  # and end-of-sequence
    assert float(measured[2]) > 0
    assert await browser.complaints() == []


async def test_a_conversation_goes_on(browser: Browser, front: Front, address: str) -> None:
    await opened(browser, address)
    await browser.type("#system", "be brief")
    for message in ("what is deep", "learning"):
        await browser.type("#prompt", message)
        await browser.press(SHIFT, ENTER)
        await browser.press(ENTER)
        await browser.until(ENDED)
    turns = f"<turn>user\nwhat is deep\n<eos>\n<turn>assistant\n{TEXT}<eos>\n<turn>user\nlearning\n<eos>\n"
    prompt = f"<bos><turn>system\nbe brief<eos>\n{turns}<turn>assistant\n"
    assert front.tokenizer.decode(front.engine.requests[-1].prompt) == prompt
    await browser.click("#clear")
    assert await browser.text(".log") == "\n"


async def test_plain_text_is_continued_without_a_mouse(browser: Browser, front: Front, address: str) -> None:
    await opened(browser, address)
    await browser.run("document.getElementById('prompt').focus()")
    await browser.press(TAB)
    await browser.press(RIGHT)
    await browser.press(SHIFT, TAB)
    await browser.press("t")
    await browser.press(CONTROL, ENTER)
    await browser.until(ENDED)
    assert await browser.text(".answer .says") == f"t{TEXT}"
    assert front.engine.requests[0].prompt == front.tokenizer.encode("t", add_special_tokens=True)


async def test_parameters_reach_the_engine(browser: Browser, front: Front, address: str) -> None:
    await opened(browser, address, max_tokens=7)
    fields = {"temperature": "0.5", "top_p": "0.25", "top_k": "3", "seed": "11", "stop": "is\\n\nis the"}
    for name, value in fields.items():
        await browser.type(f"#{name}", value)
    await browser.type("#prompt", "hello")
    await browser.press(ENTER)
    await browser.until(ENDED)
    request = front.engine.requests[0]
    sampling = request.sampling
    assert request.max_new_tokens == 7
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.5, 0.25, 3, 11)
    assert (await browser.text(".answer .says")).strip() == "deep learning"
    assert "curl -N http://127.0.0.1" in await browser.run("return document.querySelector('.answer pre').textContent")


async def test_answers_can_be_held_to_a_schema(browser: Browser, front: Front, address: str) -> None:
    await opened(browser, address)
    await browser.type("#prompt", "hello")
    await browser.run(
        "const at = document.getElementById('format'); at.value = 'json_schema';at.dispatchEvent(new Event('change'))"
    )
    await browser.type("#schema", '{"type": ')
    await browser.click("#send")
    assert "no JSON" in await browser.run("return document.getElementById('schema').validationMessage")
    assert front.engine.requests == []
    await browser.type("#schema", '{"type": "object"}')
    await browser.click("#send")
    await browser.until(ENDED)
    grammar = front.engine.requests[0].grammar
    assert grammar is not None
    assert (grammar.kind, json.loads(grammar.source)["type"]) == ("json_schema", "object")


async def test_an_adapter_can_be_chosen(browser: Browser, front: Front, address: str) -> None:
    front.engine.info.adapters.append("french")
    await opened(browser, address)
    await browser.run("document.getElementById('models').value = 'french'")
    await browser.type("#prompt", "hello")
    await browser.press(ENTER)
    await browser.until(ENDED)
    assert front.engine.requests[0].adapter == "french"


@pytest.mark.parametrize("way", ["button", "key"])
async def test_stopping_ends_the_work(browser: Browser, front: Front, address: str, way: str) -> None:
    front.engine.hang_after = 3
    await opened(browser, address)
    await browser.type("#prompt", "hello")
    await browser.press(ENTER)
    await browser.until("document.querySelector('.busy .says')?.innerText")
    assert front.engine.running == 1
    await (browser.click("#send") if way == "button" else browser.press(ESCAPE))
    await until(lambda: front.engine.aborted == 1)
    await browser.until(ENDED)
    assert TEXT.startswith(await browser.text(".answer .says"))
    assert "stopped" in await browser.text(".numbers")
    assert await browser.text(".error") == ""
    assert await browser.text("#send") == "Send"


async def test_refusals_are_told_in_the_servers_words(browser: Browser, front: Front, address: str) -> None:
    await opened(browser, address)
    await browser.type("#top_p", "2")
    await browser.type("#prompt", "hello")
    await browser.press(ENTER)
    await browser.until(ENDED)
    body = {"messages": [{"role": "user", "content": "hello"}], "top_p": 2}
    assert await browser.text(".error") == (await front.post("/v1/chat/completions", body)).json()["error"]["message"]
    assert await browser.run("return document.getElementById('prompt').value") == "hello"


async def test_a_key_that_is_typed_in_is_sent(make_front: Callable[..., Front], browser: Browser) -> None:
    front = make_front(TEXT, api_key=("secret",))
    async with listening(front) as address:
        await browser.open(f"{address}/playground")
        await browser.until("document.querySelector('.model.down')")
        assert await browser.text(".model") == (await front.get("/v1/models")).json()["error"]["message"]
        await browser.type("#key", "secret")
        await browser.type("#max_tokens", "64")
        await browser.until("document.querySelector('.model.up')")
        await browser.type("#prompt", "hello")
        await browser.press(ENTER)
        await browser.until(ENDED)
        assert await browser.text(".answer .says") == TEXT
        assert "secret" not in await browser.run("return document.documentElement.outerHTML")
        await browser.open(f"{address}/playground")
        assert await browser.run("return document.getElementById('key').value") == ""


async def test_swagger_ui_asks_and_shows_the_answer(make_front: Callable[..., Front], browser: Browser) -> None:
    front = make_front(TEXT, api_key=("secret",))
    async with listening(front) as address:
        await browser.open(f"{address}/docs")
        button = "document.querySelector('[id$=get_v1_models] .opblock-summary-control')"
        await browser.until(button)
        await browser.run(f"{button}.click()")
        await browser.until("document.querySelector('.execute')")
        await browser.click(".execute")
        await browser.until("document.querySelector('.live-responses-table')")
        assert "invalid_api_key" in await browser.text(".live-responses-table")
        assert [each for each in await browser.complaints() if "401" not in each] == []


async def test_failures_in_the_middle_keep_what_came(browser: Browser, front: Front, address: str) -> None:
    front.engine.fail_after = 3
    await opened(browser, address)
    await browser.type("#prompt", "hello")
    await browser.press(ENTER)
    await browser.until(ENDED)
    assert await browser.text(".error") == "the engine died"
    assert TEXT.startswith(await browser.text(".answer .says"))


async def test_what_a_model_writes_is_text(make_front: Callable[..., Front], browser: Browser) -> None:
    markup = "<img src=x onerror=alert(1)><b>bold</b>"
    front = make_front(markup)
    async with listening(front) as address:
        await opened(browser, address, max_tokens=100)
        await browser.type("#prompt", "hello")
        await browser.press(ENTER)
        await browser.until(ENDED)
        assert await browser.text(".answer .says") == markup


@pytest.mark.parametrize("colors", ["light", "dark"])
async def test_everything_can_be_read_on_a_phone(browser: Browser, front: Front, address: str, colors: str) -> None:
    await browser.open(f"{address}/playground", colors, 360, 700)
    await browser.click("aside summary")
    await browser.type("#top_p", "2")
    await browser.click("aside summary")
    await browser.type("#prompt", "hello" * 30)
    await browser.press(ENTER)
    await browser.until(ENDED)
    assert await browser.run("return document.documentElement.scrollWidth") == 360
    assert await browser.run("return document.documentElement.scrollHeight") == 700
    await browser.click("aside summary")
    assert await browser.run(FAINT) == []


# Texts with less contrast than 4.5 to 1 (WCAG 2.2, 1.4.3), by WCAG's formula.
FAINT = """
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, alpha = 1] = channels(getComputedStyle(at).backgroundColor);
    if (alpha === 1) return [r, g, b];
  }
  return [255, 255, 255];
};
const seen = [...document.querySelectorAll('body *')].filter((element) => element.checkVisibility()
  && (element.placeholder || [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())));
if (seen.length < 15) return ['too few'];
return seen.filter((element) => {
  const text = luminance(channels(getComputedStyle(element, element.placeholder ? '::placeholder' : null).color));
  const ground = luminance(behind(element));
  return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05) < 4.5;
}).map((element) => element.outerHTML);
"""
