from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNFINISHED: _ClassVar[FinishReason]
    LENGTH: _ClassVar[FinishReason]
    END_OF_SEQUENCE: _ClassVar[FinishReason]
    ABORTED: _ClassVar[FinishReason]
UNFINISHED: FinishReason
LENGTH: FinishReason
END_OF_SEQUENCE: FinishReason
ABORTED: FinishReason

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EngineInfo(_message.Message):
    __slots__ = ("model_type", "model_sha", "dtype", "device", "num_shard", "block_size", "num_blocks", "max_input_tokens", "max_total_tokens", "max_batch_prefill_tokens", "vocab_size", "attention_backend", "quantize", "longest_step_seconds", "adapters", "decoder_start_token")
    MODEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARD_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    MAX_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOTAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_BACKEND_FIELD_NUMBER: _ClassVar[int]
    QUANTIZE_FIELD_NUMBER: _ClassVar[int]
    LONGEST_STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    DECODER_START_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model_type: str
    model_sha: str
    dtype: str
    device: str
    num_shard: int
    block_size: int
    num_blocks: int
    max_input_tokens: int
    max_total_tokens: int
    max_batch_prefill_tokens: int
    vocab_size: int
    attention_backend: str
    quantize: str
    longest_step_seconds: float
    adapters: _containers.RepeatedScalarFieldContainer[str]
    decoder_start_token: int
    def __init__(self, model_type: _Optional[str] = ..., model_sha: _Optional[str] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., num_shard: _Optional[int] = ..., block_size: _Optional[int] = ..., num_blocks: _Optional[int] = ..., max_input_tokens: _Optional[int] = ..., max_total_tokens: _Optional[int] = ..., max_batch_prefill_tokens: _Optional[int] = ..., vocab_size: _Optional[int] = ..., attention_backend: _Optional[str] = ..., quantize: _Optional[str] = ..., longest_step_seconds: _Optional[float] = ..., adapters: _Optional[_Iterable[str]] = ..., decoder_start_token: _Optional[int] = ...) -> None: ...

class AdapterChange(_message.Message):
    __slots__ = ("name", "folder")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    folder: str
    def __init__(self, name: _Optional[str] = ..., folder: _Optional[str] = ...) -> None: ...

class AdapterReply(_message.Message):
    __slots__ = ("adapters", "error_type", "message")
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedScalarFieldContainer[str]
    error_type: str
    message: str
    def __init__(self, adapters: _Optional[_Iterable[str]] = ..., error_type: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EngineStatus(_message.Message):
    __slots__ = ("steps", "seconds_in_step", "waiting", "running", "blocks_used", "prompt_tokens", "cached_tokens", "generated_tokens", "preemptions", "tokens_claimed", "statistics", "joined", "join_seconds", "skipped_tokens", "guessed_tokens")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_IN_STEP_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_USED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_CLAIMED_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    JOIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GUESSED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    steps: int
    seconds_in_step: float
    waiting: int
    running: int
    blocks_used: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    preemptions: int
    tokens_claimed: int
    statistics: _containers.RepeatedCompositeFieldContainer[StepStatistics]
    joined: Histogram
    join_seconds: Histogram
    skipped_tokens: Histogram
    guessed_tokens: int
    def __init__(self, steps: _Optional[int] = ..., seconds_in_step: _Optional[float] = ..., waiting: _Optional[int] = ..., running: _Optional[int] = ..., blocks_used: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., preemptions: _Optional[int] = ..., tokens_claimed: _Optional[int] = ..., statistics: _Optional[_Iterable[_Union[StepStatistics, _Mapping]]] = ..., joined: _Optional[_Union[Histogram, _Mapping]] = ..., join_seconds: _Optional[_Union[Histogram, _Mapping]] = ..., skipped_tokens: _Optional[_Union[Histogram, _Mapping]] = ..., guessed_tokens: _Optional[int] = ...) -> None: ...

class StepStatistics(_message.Message):
    __slots__ = ("method", "failures", "inference", "forward", "decode", "filter")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_FIELD_NUMBER: _ClassVar[int]
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    method: str
    failures: int
    inference: Histogram
    forward: Histogram
    decode: Histogram
    filter: Histogram
    def __init__(self, method: _Optional[str] = ..., failures: _Optional[int] = ..., inference: _Optional[_Union[Histogram, _Mapping]] = ..., forward: _Optional[_Union[Histogram, _Mapping]] = ..., decode: _Optional[_Union[Histogram, _Mapping]] = ..., filter: _Optional[_Union[Histogram, _Mapping]] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("counts", "sum")
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    sum: float
    def __init__(self, counts: _Optional[_Iterable[int]] = ..., sum: _Optional[float] = ...) -> None: ...

class ClientMessage(_message.Message):
    __slots__ = ("submit", "abort")
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    submit: Submit
    abort: Abort
    def __init__(self, submit: _Optional[_Union[Submit, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("request", "prompt", "sampling", "max_new_tokens", "stop_tokens", "cache_salt", "prompt_logprobs", "grammar", "adapter", "queue_timeout", "tenant", "priority")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    request: int
    prompt: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    max_new_tokens: int
    stop_tokens: _containers.RepeatedScalarFieldContainer[int]
    cache_salt: str
    prompt_logprobs: bool
    grammar: Grammar
    adapter: str
    queue_timeout: float
    tenant: str
    priority: int
    def __init__(self, request: _Optional[int] = ..., prompt: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_new_tokens: _Optional[int] = ..., stop_tokens: _Optional[_Iterable[int]] = ..., cache_salt: _Optional[str] = ..., prompt_logprobs: _Optional[bool] = ..., grammar: _Optional[_Union[Grammar, _Mapping]] = ..., adapter: _Optional[str] = ..., queue_timeout: _Optional[float] = ..., tenant: _Optional[str] = ..., priority: _Optional[int] = ...) -> None: ...

class Grammar(_message.Message):
    __slots__ = ("kind", "source")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    source: str
    def __init__(self, kind: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: int
    def __init__(self, request: _Optional[int] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("greedy", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "frequency_penalty", "seed", "count_penalty", "presence_penalty", "logit_bias", "watermark", "top_tokens", "raw_logprobs")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    GREEDY_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TYPICAL_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    COUNT_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RAW_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    greedy: bool
    temperature: float
    top_k: int
    top_p: float
    typical_p: float
    repetition_penalty: float
    frequency_penalty: float
    seed: int
    count_penalty: float
    presence_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    watermark: bool
    top_tokens: int
    raw_logprobs: bool
    def __init__(self, greedy: _Optional[bool] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., typical_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., seed: _Optional[int] = ..., count_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., watermark: _Optional[bool] = ..., top_tokens: _Optional[int] = ..., raw_logprobs: _Optional[bool] = ...) -> None: ...

class StepMessage(_message.Message):
    __slots__ = ("requests", "tokens", "logprobs", "finish", "starts", "failures", "tops")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    TOPS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedScalarFieldContainer[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    finish: _containers.RepeatedScalarFieldContainer[FinishReason]
    starts: _containers.RepeatedCompositeFieldContainer[Start]
    failures: _containers.RepeatedCompositeFieldContainer[Failure]
    tops: _containers.RepeatedCompositeFieldContainer[Alternatives]
    def __init__(self, requests: _Optional[_Iterable[int]] = ..., tokens: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., finish: _Optional[_Iterable[_Union[FinishReason, str]]] = ..., starts: _Optional[_Iterable[_Union[Start, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ..., tops: _Optional[_Iterable[_Union[Alternatives, _Mapping]]] = ...) -> None: ...

class Alternatives(_message.Message):
    __slots__ = ("tokens", "logprobs")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("request", "queue_seconds", "cached_tokens", "prompt_logprobs", "prompt_tops")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOPS_FIELD_NUMBER: _ClassVar[int]
    request: int
    queue_seconds: float
    cached_tokens: int
    prompt_logprobs: _containers.RepeatedScalarFieldContainer[float]
    prompt_tops: _containers.RepeatedCompositeFieldContainer[Alternatives]
    def __init__(self, request: _Optional[int] = ..., queue_seconds: _Optional[float] = ..., cached_tokens: _Optional[int] = ..., prompt_logprobs: _Optional[_Iterable[float]] = ..., prompt_tops: _Optional[_Iterable[_Union[Alternatives, _Mapping]]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("request", "error_type", "message")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    request: int
    error_type: str
    message: str
    def __init__(self, request: _Optional[int] = ..., error_type: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
