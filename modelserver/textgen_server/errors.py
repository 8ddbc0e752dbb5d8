"""The error tree. Every failure that a user can see is one of these, and carries its own codes.

    TextgenError
    ├── RequestError               the client's request cannot be served as it is
    │   ├── InvalidRequest         a value is wrong                                  422 validation
    │   │   └── ContextExceeded    the prompt, or what is asked for, is too long     422 validation
    │   ├── TemplateError          the chat template failed or is missing            422 template_error
    │   ├── ModelNotFound          no such model or adapter is served                404 model_not_found
    │   ├── AdapterInUse           an adapter that requests use cannot go            409 adapter_in_use
    │   ├── Unauthorized           no key, or a wrong one                            401 invalid_api_key
    │   └── Overloaded             too many requests at once                         429 overloaded
    ├── GenerationError            the engine failed while it worked on the request  424 generation
    ├── DeadlineExceeded           the request took longer than it may               504 timeout
    ├── IncompleteGeneration       the engine ended without a last message           500 incomplete_generation
    │   └── IncompleteStream       ... while the client was reading                  500 incomplete_generation_stream
    ├── EngineUnavailable          the engine is dead, stuck, or not yet there       503 healthcheck
    │   └── ShuttingDown           the server takes no new requests                  503 healthcheck
    └── StartupError               the server cannot start: one sentence, exit code 1   startup
        ├── ModelSourceError       the model's files cannot be fetched                  model_source
        │   ├── ModelMissing       there is no such model, revision, folder or file     model_missing
        │   ├── ModelGated         it may not be read with these credentials            model_gated
        │   ├── DownloadDamaged    what arrived is not what was sent                    download_damaged
        │   └── NoSpace            the cache has no room for it                         no_space
        ├── CheckpointError        the files are there but damaged or not understood    checkpoint
        └── OutOfMemory            model or KV cache do not fit                         out_of_memory

`error_type` is TGI's vocabulary (its clients dispatch on it). gRPC carries failures of single requests inside the
stream by `error_type`; `from_error_type` turns them back into the class.
"""

from typing import ClassVar


class TextgenError(Exception):
    """Base of all errors that are reported to users.

    Attributes:
        http_status: status of an HTTP reply that reports it.
        grpc_code: name of the gRPC status code.
        error_type: TGI's `error_type`.
        failure_label: value of the label `err` of `tgi_request_failure`.
    """

    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"
    error_type: ClassVar[str] = "internal"
    failure_label: ClassVar[str] = "generation"

    @property
    def message(self) -> str:
        """The sentence that users read."""
        return str(self)


class RequestError(TextgenError):
    http_status = 422
    grpc_code = "INVALID_ARGUMENT"
    error_type = "validation"
    failure_label = "validation"


class InvalidRequest(RequestError):
    """A value of the request is wrong. `field` names it, for OpenAI's `param`."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    @property
    def message(self) -> str:
        return f"Input validation error: {self}"


class ContextExceeded(InvalidRequest):
    """There are more tokens than the model or the server takes. OpenAI's clients look for its own `code`."""


class TemplateError(RequestError):
    error_type = "template_error"
    failure_label = "template"

    @property
    def message(self) -> str:
        return f"Template error: {self}"


class ModelNotFound(RequestError):
    """Nothing of that name is served. `field` held the name."""

    http_status = 404
    grpc_code = "NOT_FOUND"
    error_type = "model_not_found"

    def __init__(self, message: str, field: str = "model") -> None:
        super().__init__(message)
        self.field = field


class Unauthorized(RequestError):
    """The route needs an API key, and the request has none that is valid."""

    http_status = 401
    grpc_code = "UNAUTHENTICATED"
    error_type = "invalid_api_key"


class AdapterInUse(RequestError):
    http_status = 409
    grpc_code = "FAILED_PRECONDITION"
    error_type = "adapter_in_use"


class Overloaded(RequestError):
    """Every slot is taken. `retry_after` is in seconds and becomes the header Retry-After."""

    http_status = 429
    grpc_code = "RESOURCE_EXHAUSTED"
    error_type = "overloaded"
    failure_label = "overloaded"

    def __init__(self, message: str = "Model is overloaded", retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class GenerationError(TextgenError):
    http_status = 424
    grpc_code = "ABORTED"
    error_type = "generation"

    @property
    def message(self) -> str:
        return f"Request failed during generation: {self}"


class DeadlineExceeded(TextgenError):
    http_status = 504
    grpc_code = "DEADLINE_EXCEEDED"
    error_type = "timeout"
    failure_label = "timeout"


class IncompleteGeneration(TextgenError):
    error_type = "incomplete_generation"
    failure_label = "incomplete"


class IncompleteStream(IncompleteGeneration):
    error_type = "incomplete_generation_stream"


class EngineUnavailable(TextgenError):
    http_status = 503
    grpc_code = "UNAVAILABLE"
    error_type = "healthcheck"


class ShuttingDown(EngineUnavailable):
    """The server finishes what it has and takes nothing new."""


class StartupError(TextgenError):
    """The server cannot start. The launcher prints the message as one line and exits with `exit_code`; with
    --json-output that line has `error_type`, by which the operator tells the causes apart."""

    exit_code: ClassVar[int] = 1
    error_type = "startup"


class ModelSourceError(StartupError):
    error_type = "model_source"


class ModelMissing(ModelSourceError):
    error_type = "model_missing"


class ModelGated(ModelSourceError):
    error_type = "model_gated"


class DownloadDamaged(ModelSourceError):
    error_type = "download_damaged"


class NoSpace(ModelSourceError):
    error_type = "no_space"


class CheckpointError(StartupError):
    error_type = "checkpoint"


class OutOfMemory(StartupError):
    error_type = "out_of_memory"


def _tree(root: type[TextgenError]) -> list[type[TextgenError]]:
    return [root, *(error for child in root.__subclasses__() for error in _tree(child))]


def from_error_type(error_type: str, message: str) -> TextgenError:
    """The error that `error_type` names; unknown types become GenerationError."""
    known = {error.error_type: error for error in reversed(_tree(TextgenError)) if error is not RequestError}
    return known.get(error_type, GenerationError)(message)


def failure_labels() -> list[str]:
    """Every value that `failure_label` has."""
    return sorted({error.failure_label for error in _tree(TextgenError)})
