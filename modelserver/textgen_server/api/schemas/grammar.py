"""TGI's ways to say what an output must look like, as `grammar` of its own routes and `response_format` of the chat."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from textgen_server.api.schemas.common import Body
from textgen_server.errors import InvalidRequest
from textgen_server.sampling import Grammar


class JsonGrammar(Body):
    """The output is JSON that fits a schema."""

    type: Literal["json", "json_object"]
    value: Any
    """A JSON schema, as an object or as JSON text."""

    def to_grammar(self) -> Grammar:
        """The grammar in the sampler's words. Raises InvalidRequest where `value` can be no schema."""
        if isinstance(self.value, str):
            return Grammar("json_schema", self.value)
        if isinstance(self.value, dict):
            return _of_schema(self.value)
        raise InvalidRequest("grammar is not supported: `value` must be a JSON schema, an object or text", "grammar")


class RegexGrammar(Body):
    """The whole output matches a regular expression."""

    type: Literal["regex"]
    value: str

    def to_grammar(self) -> Grammar:
        """The grammar in the sampler's words."""
        return Grammar("regex", self.value)


class NamedSchema(Body):
    """A JSON schema, and a name for it, which has no effect."""

    name: str | None = None
    json_schema: Any = Field(alias="schema")


class JsonSchemaGrammar(Body):
    """The output is JSON that fits a schema."""

    type: Literal["json_schema"]
    value: NamedSchema

    def to_grammar(self) -> Grammar:
        """The grammar in the sampler's words."""
        return _of_schema(self.value.json_schema)


GrammarBody = Annotated[JsonGrammar | RegexGrammar | JsonSchemaGrammar, Field(discriminator="type")]


def _of_schema(schema: Any) -> Grammar:
    try:
        return Grammar("json_schema", orjson.dumps(schema).decode())
    except orjson.JSONEncodeError:  # all else that JSON had, JSON can have again
        raise InvalidRequest("grammar is not valid: the schema is nested too deeply", "grammar") from None
