"""The server's options from the command line and the environment, and back to a command line."""

import os

import pytest

from textgen_server.errors import StartupError
from textgen_server.settings import EMBEDDED_MODEL, ServerOptions, env_of, parse


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {env_of(field) for field in ServerOptions.model_fields} & os.environ.keys():
        monkeypatch.delenv(name)


def test_without_a_word_the_embedded_model_is_served() -> None:
    assert parse([]).model_id == EMBEDDED_MODEL


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "80")
    monkeypatch.setenv("MAX_TOTAL_TOKENS", "2048")
    settings = parse(["--port", "8080"])
    assert (settings.port, settings.max_total_tokens) == (8080, 2048)


def test_tgi_s_own_line_is_understood() -> None:
    line = "--model-id HuggingFaceH4/zephyr-7b-beta --quantize bitsandbytes --num-shard 1"
    settings = parse(line.split())
    assert (settings.model_id, settings.quantize, settings.num_shard) == (
        "HuggingFaceH4/zephyr-7b-beta",
        "bitsandbytes",
        1,
    )


def test_tgi_s_flags_that_mean_nothing_here_do_not_stop_the_server() -> None:
    line = "--trust-remote-code --enable-prefill-logprobs --prometheus-port 9000 --usage-stats no-stack"
    settings = parse([*line.split(), "--disable-custom-kernels", "--waiting-served-ratio", "1.2", "--port", "8080"])
    assert settings.port == 8080


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--json-output", True),
        ("--json-output --port 8080", True),
        ("--port 8080 --json-output", True),
        ("--json-output true", True),
        ("--json-output false", False),
        ("--port 8080", False),
    ],
)
def test_a_switch_may_stand_alone(line: str, expected: bool) -> None:
    assert parse(line.split()).json_output is expected


def test_short_flags_are_tgi_s() -> None:
    settings = parse(["-p", "8080", "-g", "5"])
    assert (settings.port, settings.graceful_termination_timeout) == (8080, 5)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--num-shard two", "--num-shard: "),
        ("--port 70000", "--port: "),
        ("--quantize abracadabra", "unknown quantization method 'abracadabra'; available: .*bitsandbytes-nf4"),
        ("--attention-backend abracadabra", "unknown attention backend 'abracadabra'; available: cpu"),
        ("--max-input-tokens 10 --max-total-tokens 10", r"max_input_tokens \(10\) must be less than max_total_tokens"),
        ("--max-input-tokens 10 --max-input-length 10", "are the same option: give only max_input_tokens"),
        ("--sharded true --num-shard 1", "sharded is true but num_shard is 1"),
        ("--ssl-certfile cert.pem", "ssl_certfile and ssl_keyfile belong together"),
        ("--ssl-keyfile key.pem", "ssl_certfile and ssl_keyfile belong together"),
        ("--ssl-ca-certs ca.pem", "ssl_ca_certs needs ssl_certfile"),
        ("--request-timeout 0", "--request-timeout: Input should be greater than 0"),
    ],
)
def test_wrong_options_are_a_sentence_that_names_them(line: str, sentence: str) -> None:
    with pytest.raises(StartupError, match=sentence):
        parse(line.split())


@pytest.mark.parametrize("line", ["--api-key one,two", "--api-key one --api-key two", "--api-key=one, --api-key=two"])
def test_several_values_are_repeated_or_separated_by_commas(line: str) -> None:
    assert parse(line.split()).api_key == ("one", "two")


def test_several_values_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "one,[two")
    assert parse([]).api_key == ("one", "[two")


@pytest.mark.parametrize("args", [["--api-key", ""], ["--api-key="], ["--api-key", " , "], ["--api-key-file", ""]])
def test_an_empty_key_does_not_open_the_server(args: list[str]) -> None:
    with pytest.raises(StartupError, match=r"--api-key.*: it is empty"):
        parse(args)


def test_an_empty_variable_does_not_open_it_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "")
    with pytest.raises(StartupError, match="API_KEY: it is empty"):
        parse([])


def test_keys_are_told_to_nobody() -> None:
    options = ServerOptions(api_key=("secret-key",))
    with pytest.raises(StartupError) as refused:
        parse(["--api-key", "secret-key with blanks"])
    told = (
        f"{options} {options!r} {options.model_dump()} {options.model_dump_json()} {options.to_args()} {refused.value}"
    )
    assert "secret-key" not in told


def test_unknown_flags_end_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--no-such-flag", "1"])
    assert ended.value.code == 2
    assert "--no-such-flag" in capsys.readouterr().err


@pytest.mark.parametrize(("hostname", "listens_on"), [("pod-0", "0.0.0.0"), ("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_a_container_s_name_is_no_address_to_listen_on(
    hostname: str, listens_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTNAME", hostname)
    assert parse([]).hostname == listens_on


def test_options_become_a_command_line_that_means_the_same() -> None:
    options = ServerOptions(
        model_id="org/name", num_shard=2, json_output=False, cuda_memory_fraction=0.5, port=3000,
        cors_allow_origin=("https://a.example", "https://b.example"),
    )  # fmt: skip
    args = options.to_args()
    parsed = parse(args)
    assert {name: getattr(parsed, name) for name in ServerOptions.model_fields} == dict(options)


def test_what_was_said_is_in_the_command_line_even_where_it_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "80")
    assert parse(ServerOptions(port=3000).to_args()).port == 3000
