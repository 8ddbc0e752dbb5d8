"""The paths under /v2/models. Names of models may have slashes; a version may be named, and is ignored as in TGI."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path
from starlette.convertors import Convertor, register_url_convertor

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])

ModelName = Annotated[str, Path(description="The served name of the model, or the name of an adapter")]


class _ModelNameConvertor(Convertor[str]):
    # Not what follows it in other routes, so that a wrong method there is 405 and not a model that does not exist.
    regex = r".*(?<!/ready)(?<!/infer)(?<!/generate)(?<!/generate_stream)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model_name", _ModelNameConvertor())


async def _ignore(model_version: Annotated[str, Path(description="Anything; there is one version")]) -> None:
    """Dependency that puts the version into the document."""


def model_route(router: APIRouter, method: str, suffix: str, **options: Any) -> Callable[[_Endpoint], _Endpoint]:
    """Decorator of what answers at /v2/models/{model_name} + `suffix`, with and without a version."""
    base = "/v2/models/{model_name:model_name}"

    def register(endpoint: _Endpoint) -> _Endpoint:
        versioned = f"{base}/versions/{{model_version}}{suffix}"
        router.add_api_route(versioned, endpoint, methods=[method], dependencies=[Depends(_ignore)], **options)
        router.add_api_route(f"{base}{suffix}", endpoint, methods=[method], **options)
        return endpoint

    return register
