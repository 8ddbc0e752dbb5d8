"""The documents say what is so: links and files exist, commands run, tables are complete."""

import re
from pathlib import Path

import pytest
import yaml

from textgen_operator.resource import TextGenerationService
from textgen_server import telemetry
from textgen_server.registry import FAMILIES, QUANTIZATION_METHODS
from textgen_server.settings import ServerOptions, flag_of

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "helm/textgen/README.md"])
CODE_ROOTS = (ROOT, ROOT / "modelserver/textgen_server", ROOT / "operator/textgen_operator")

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"^(?:[A-Z_]+=\S+ )?make ([a-z][\w-]*)")
# Of the operator, Docker and kubectl.
OTHER_FLAGS = {
    *("--build-arg", "--namespace", "--print-docker", "--lease-name", "--lease-seconds"),
    *("--shm-size", "--for", "--timeout"),
}

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text())


def anchors(document: Path) -> set[str]:
    """As code hosts make them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(document: Path) -> list[str]:
    """What is written to be typed: lines of code blocks, and code in the text."""
    blocks = [line for _, text in FENCE.findall(document.read_text()) for line in text.splitlines()]
    return [*blocks, *CODE.findall(prose(document))]


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(prose(document)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_long_page_begins_with_its_contents() -> None:
    page = ROOT / "docs" / "operations.md"
    contents, *sections = prose(page).split("\n## ")
    assert re.findall(r"\[([^\]]+)\]\(#", contents) == [section.partition("\n")[0] for section in sections]


@each_document
def test_files_that_are_named_exist(document: Path) -> None:
    """Paths are from the project's root or from a package; `x` stands for a name of the reader's own."""
    for name in CODE.findall(prose(document)):
        looks_like_path = re.fullmatch(r"[\w.-]+(/[\w.-]+)*(\.(py|proto|yaml|md|txt)|/)", name)
        if looks_like_path and "x.py" not in name:
            assert any((root / name).exists() for root in CODE_ROOTS), name


@each_document
def test_make_has_the_targets_that_are_named(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {match[1] for command in commands(document) if (match := MAKE.match(command))}
    assert named <= targets


def test_the_readme_names_the_two_commands() -> None:
    assert {"make run", "make test"} <= set(commands(ROOT / "README.md"))


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md", "docs/operations.md"])
def test_flags_that_are_named_exist(name: str) -> None:
    known = {flag_of(field) for field in ServerOptions.model_fields} | OTHER_FLAGS
    named = {flag for code in CODE.findall(prose(ROOT / name)) for flag in re.findall(r"--[a-z][a-z-]+", code)}
    assert named <= known


@each_document
def test_resources_that_are_shown_are_valid(document: Path) -> None:
    for language, text in FENCE.findall(document.read_text()):
        if language == "yaml":
            TextGenerationService.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_says_what_it_is_for_and_is_in_the_list_by_need(example: Path) -> None:
    assert example.read_text().startswith("# ")
    assert f"(../examples/{example.name})" in (ROOT / "docs" / "resource.md").read_text()


def test_the_readme_lists_what_the_registry_has() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in QUANTIZATION_METHODS if f"`{name}`" not in text] == []
    rows = [
        f"| {family.summary} | {', '.join(f'`{name}`' for name in family.model_types)} |"
        for family in FAMILIES.values()
    ]
    assert "\n".join(rows) in text


def test_every_metric_is_in_the_table() -> None:
    defined = {
        value
        for name, value in vars(telemetry).items()
        if name.isupper() and str(value).startswith(("tgi_", "textgen_"))
    }
    table = re.findall(r"^\| `((?:tgi|textgen)_\w+)` \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert set(table) == defined
    assert len(table) == len(set(table))


def test_ci_runs_what_a_developer_can_run() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[-2:] == ["make check", "make test"]
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step for step in job["steps"] if step.get("run") == ".ci/run"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
