"""Texts of a real model: those with the watermark are told from those without, by text alone."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PROMPTS = [
    "Once upon a time, in a village by the sea,",
    "My holiday began with a surprise:",
    "The history of bread is",
    "Dear diary, today",
]


def detector(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("textgen-server")), "detect-watermark", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def texts(server) -> dict[bool, list[str]]:
    """Generated texts, with the watermark and without."""

    def write(place: int) -> str:
        prompt, watermark = PROMPTS[place // 2], bool(place % 2)
        reply = server.generate(prompt, max_new_tokens=100, do_sample=True, seed=place, watermark=watermark)
        return reply.raise_for_status().json()["generated_text"]

    with ThreadPoolExecutor(8) as clients:
        written = list(clients.map(write, range(8)))
    return {True: written[1::2], False: written[::2]}


def test_marked_texts_are_detected_and_plain_ones_are_not(texts, model_flags, tmp_path):
    for marked in (True, False):
        together = "\n\n".join(texts[marked])
        file = tmp_path / "text"
        file.write_text(together)
        by_file = detector(*model_flags[:2], "--json", str(file))
        by_input = detector(*model_flags[:2], "--json", text=together)
        assert by_file.returncode == (0 if marked else 1), by_file.stderr
        assert by_file.stdout == by_input.stdout
        found = json.loads(by_file.stdout)
        assert found["watermarked"] is marked
        assert (found["z"] > 6) is marked
        assert found["total"] > 200


def test_each_marked_text_has_a_high_score_and_no_plain_one_has(texts, smollm2_folder):
    from textgen_server.text.tokenizer import Tokenizer
    from textgen_server.watermark import PUBLIC, Watermark, detect

    tokenizer = Tokenizer.load(smollm2_folder)
    tokens = {marked: [tokenizer.encode(text) for text in some] for marked, some in texts.items()}
    assert min(detect(some, PUBLIC).z for some in tokens[True]) > 4
    assert max(detect(some, PUBLIC).z for some in tokens[False]) < 4
    assert max(detect(some, Watermark(key=1)).z for some in tokens[True]) < 4  # the key is another


def test_what_people_read_says_how_sure_it_is(texts, model_flags):
    shown = detector(*model_flags[:2], text="\n".join(texts[True]))
    assert "watermark found: z is at least 4" in shown.stdout
    assert shown.stdout.startswith("z = ")
    strict = detector(*model_flags[:2], "--threshold", "100", text="\n".join(texts[True]))
    assert (strict.returncode, "no watermark" in strict.stdout) == (1, True)
