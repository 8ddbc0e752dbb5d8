"""How tokens are chosen: the parameters that the API sets, the wire carries and the sampler obeys."""

from dataclasses import dataclass
from typing import Literal

GrammarKind = Literal["json_schema", "regex", "lark"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an output must look like.

    Attributes:
        kind: the language that `source` is written in: a JSON schema (as JSON text), a regular expression that the
            whole output matches, or a context-free grammar in llguidance's dialect of Lark.
        source: the grammar's text.
    """

    kind: GrammarKind
    source: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The defaults are greedy, with everything else off.

    Attributes:
        greedy: take the likeliest token; temperature and filters still shape the reported probabilities.
        temperature: divisor of the logits, > 0.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the likeliest tokens up to this probability mass (Holtzman et al. 2020); 1 keeps all.
        typical_p: keep the tokens whose surprise is nearest to the entropy, up to this mass (Meister et al. 2022).
        repetition_penalty: divides positive and multiplies negative logits of tokens seen in prompt or output
            (CTRL, Keskar et al. 2019); 1 is off.
        frequency_penalty: subtracts this times a token's share of all tokens so far, as TGI does; 0 is off.
        count_penalty: subtracts this for every time that a token is in the output: OpenAI's `frequency_penalty`.
        presence_penalty: subtracts this once from each token that is in the output, as OpenAI does.
        logit_bias: (token, what to add to its logit).
        watermark: favour the green list (watermark.py).
        seed: of the draw. A request draws the same numbers whatever else is in its batch.
        top_tokens: so many of the likeliest tokens are reported with each token.
        raw_logprobs: report log-probabilities of the model's own logits (OpenAI) instead of those that the token was
            chosen by (TGI).
    """

    greedy: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    count_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    watermark: bool = False
    seed: int = 0
    top_tokens: int = 0
    raw_logprobs: bool = False

    @property
    def is_plain(self) -> bool:
        """True where logits are used as they are: no penalty, bias, watermark, temperature or filter."""
        return self.temperature == 1.0 and self.is_tempered

    @property
    def is_tempered(self) -> bool:
        """True where at most the temperature changes the logits."""
        return self.top_k == 0 and self.top_p == 1.0 and self.is_simple

    @property
    def is_simple(self) -> bool:
        """True where at most temperature, top-k and top-p change the logits."""
        return self.typical_p == 1.0 and not self.logit_bias and not self.watermark and not self.needs_history

    @property
    def needs_history(self) -> bool:
        """True where the tokens so far change the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.count_penalty != 0.0
            or self.presence_penalty != 0.0
        )
