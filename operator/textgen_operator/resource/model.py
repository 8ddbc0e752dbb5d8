"""What the server is told about the model: how it is fetched, and how much it takes at once."""

from typing import ClassVar

from pydantic import Field

from textgen_operator.resource.references import SecretKey
from textgen_operator.resource.types import server_option
from textgen_operator.rules import Part, Rule


class HuggingFace(Part):
    """How the Hugging Face hub is reached."""

    token_secret_ref: SecretKey | None = None
    """Secret with the token for gated and private models."""

    endpoint: str | None = Field(default=None, max_length=512, pattern=r"^https?://")
    """URL of a mirror of the hub."""

    offline: bool = False
    """Never ask the hub: the model must be in the cache or in the image."""


class Limits(Part):
    """What a replica accepts at once. What is left out, the server decides from the model and the memory it finds."""

    max_concurrent_requests: int | None = server_option("max_concurrent_requests")
    max_input_tokens: int | None = server_option("max_input_tokens")
    max_total_tokens: int | None = server_option("max_total_tokens")
    max_batch_prefill_tokens: int | None = server_option("max_batch_prefill_tokens")
    max_batch_total_tokens: int | None = server_option("max_batch_total_tokens")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "limits.maxInputTokens must be less than limits.maxTotalTokens, which counts prompt and output together",
            "!has(self.maxInputTokens) || !has(self.maxTotalTokens) || self.maxInputTokens < self.maxTotalTokens",
            lambda limits: (
                limits.max_input_tokens is None
                or limits.max_total_tokens is None
                or limits.max_input_tokens < limits.max_total_tokens
            ),
            ".maxInputTokens",
        ),
    )
