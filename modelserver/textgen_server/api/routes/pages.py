"""What people open in a browser: GET /playground, and GET /docs with the files it needs. Not part of the API, so not in
its description.

Nothing is loaded from elsewhere, and the Content-Security-Policy of each page sees to it: what a model writes cannot
become a script, and a key that is typed in can be sent to this server alone.
"""

import base64
import hashlib
import re
from importlib.resources import files

import orjson
from fastapi import APIRouter, Request, Response

router = APIRouter(include_in_schema=False)

_PLAYGROUND = files("textgen_server.api").joinpath("static/playground.html").read_bytes()

# Swagger UI is written in JavaScript of its own, in a file; this starts it.
_DOCS = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>textgen API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({
  url: "api-doc/openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
});
</script>
</body>
</html>
"""
# From PyPI's fastapi-offline, which packs Swagger UI's own release.
_SWAGGER_UI = files("fastapi_offline").joinpath("static")


def _page_headers(page: bytes, **sources: str) -> dict[str, str]:
    """Headers of a page that may use the scripts and styles inside it, told by their hashes, and nothing else.

    Args:
        sources: further sources that the policy allows, by kind, as in script="'self'".
    """
    policy = [
        "default-src 'none'",
        f"script-src {_hashes(page, b'script')} {sources.get('script', '')}".strip(),
        f"style-src {_hashes(page, b'style')} {sources.get('style', '')}".strip(),
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return {
        "Content-Security-Policy": "; ".join(policy),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _hashes(page: bytes, tag: bytes) -> str:
    contents = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each).digest()).decode()}'" for each in contents)


_PLAYGROUND_HEADERS = _page_headers(_PLAYGROUND)
_DOCS_HEADERS = _page_headers(_DOCS, script="'self'", style="'self'")


@router.get("/playground")
async def playground() -> Response:
    """A page to try the model on."""
    return Response(_PLAYGROUND, headers=_PLAYGROUND_HEADERS, media_type="text/html")


@router.get("/docs")
async def docs() -> Response:
    """The API's description, to read and to try: Swagger UI."""
    return Response(_DOCS, headers=_DOCS_HEADERS, media_type="text/html")


@router.get("/docs/swagger-ui-bundle.js")
def swagger_ui_script() -> Response:
    """Swagger UI."""
    return _swagger_ui_file("swagger-ui-bundle.js", "text/javascript")


@router.get("/docs/swagger-ui.css")
def swagger_ui_style() -> Response:
    """Its style."""
    return _swagger_ui_file("swagger-ui.css", "text/css")


def _swagger_ui_file(name: str, media_type: str) -> Response:
    headers = {"Cache-Control": "max-age=3600", "X-Content-Type-Options": "nosniff"}
    return Response(_SWAGGER_UI.joinpath(name).read_bytes(), headers=headers, media_type=media_type)


@router.get("/openapi.json")
async def description(request: Request) -> Response:
    """The API's description also where FastAPI's clients look for it; TGI's has its place at /api-doc/openapi.json."""
    return Response(orjson.dumps(request.app.openapi()), media_type="application/json")
