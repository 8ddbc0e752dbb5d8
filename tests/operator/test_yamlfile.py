"""YAML files, and errors that lead to the line."""

from pathlib import Path

import pytest
import yaml
from operator_samples import EXAMPLES

from textgen_operator.yamlfile import SourceError, dump, load_service, load_services

HEAD = """\
apiVersion: textgen.dev/v1alpha1
kind: TextGenerationService
metadata: {name: %s}
spec:
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "service.yaml"


def complaint(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(SourceError) as caught:
        load_services(file)
    return str(caught.value)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_can_be_read(example: Path) -> None:
    assert load_service(example, None).metadata.name


@pytest.mark.parametrize(
    ("spec", "line", "words"),
    [
        ("  model: a/b\n  modle: x\n", 6, "spec.modle: there is no such field"),
        ("  replicas: 1\n", 4, "spec.model: is required"),
        ("  model: a/b\n  gpu:\n    count: many\n", 7, "spec.gpu.count: Input should be a valid integer"),
        ("  model: a/b\n  shards: 9\n", 6, "spec.shards: shards must not exceed gpu.count"),
        ("  model: a/b\n  env:\n  - {name: A, value: x}\n  - name: B\n", 8, "spec.env.1: env needs exactly one"),
        ("  model: a/b\n  limits: {maxInputTokens: 5, maxTotalTokens: 5}\n", 6, "spec.limits.maxInputTokens: "),
    ],
)
def test_an_error_names_file_line_and_field(file: Path, spec: str, line: int, words: str) -> None:
    assert complaint(file, HEAD % "chat" + spec).startswith(f"{file}:{line}: {words}")


def test_lines_are_counted_from_the_beginning_of_the_file(file: Path) -> None:
    good = HEAD % "one" + "  model: a/b\n"
    assert complaint(file, good + "---\n" + HEAD % "two" + "  model: 1\n").startswith(f"{file}:11: spec.model")


def test_every_error_has_its_line(file: Path) -> None:
    lines = complaint(file, HEAD % "chat" + "  model: a/b\n  dtype: x\n  replicas: y\n").splitlines()
    assert [line.split(":")[1] for line in lines] == ["6", "7"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: b: c", "is not YAML"),
        ("", "holds no TextGenerationService"),
        ("kind: Service\n", "holds no TextGenerationService"),
        ("- 1\n", "holds no TextGenerationService"),
        ("kind: TextGenerationService\n", "apiVersion: is required"),
    ],
)
def test_what_is_no_service_is_said_so(file: Path, text: str, words: str) -> None:
    assert words in complaint(file, text)


def test_a_file_that_is_not_there_is_said_so(file: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        load_services(file)


def test_a_file_that_is_not_text_is_said_so(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="cannot be read"):
        load_services(file)


def test_of_several_services_one_is_chosen_by_name(file: Path) -> None:
    file.write_text("---\n".join(HEAD % name + "  model: a/b\n" for name in ("one", "two")))
    assert load_service(file, "two").metadata.name == "two"
    with pytest.raises(SourceError, match=r"several services \(one, two\): choose one with --name"):
        load_service(file, None)
    with pytest.raises(SourceError, match="holds no service 'three', but one, two"):
        load_service(file, "three")


def test_what_is_written_can_be_read_and_has_no_anchors() -> None:
    part = {"path": "/health"}
    manifests = [{"b": part, "a": part}, {"c": [1]}]
    text = dump(manifests)
    assert list(yaml.safe_load_all(text)) == manifests
    assert "&" not in text
    assert text.index("b:") < text.index("a:")
