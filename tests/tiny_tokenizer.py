"""A tokenizer for the tiny random checkpoints of tests/shapes.py: one word, one token."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

VOCABULARY = 131  # of tests/shapes.py


def write_tokenizer(folder: Path, end: int) -> None:
    """Write tokenizer.json and tokenizer_config.json: token `end` is "</s>", other tokens are "w3", "w4", ..."""
    words = {"</s>" if id == end else f"w{id}": id for id in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
