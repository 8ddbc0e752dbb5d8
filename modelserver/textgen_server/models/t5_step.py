"""A step of an encoder-decoder as two of attention: the decoder's with itself, and with the encoder. For t5.py."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textgen_server.attention.base import AttentionBatch


@dataclass(frozen=True)
class Step:
    """The two halves of the step's sequences.

    Attributes:
        encoder_rows, decoder_rows: [.] int64, where they lie in the flat batch.
        lengths: of the prompts that are encoded in this step.
        own: the decoder's queries, with the decoder's keys up to theirs.
        cross: each of the decoder's queries as a sequence of its own, with all of the encoder's keys.
    """

    encoder_rows: Tensor
    decoder_rows: Tensor
    lengths: list[int]
    own: AttentionBatch
    cross: AttentionBatch


def plan_step(batch: AttentionBatch) -> Step:
    """Cut the step's sequences where their encoder ends."""
    encoder_rows: list[int] = []
    decoder_rows: list[int] = []
    sequences: list[int] = []  # of the decoder's rows
    query_lens, lengths, row = [], [], 0
    host = zip(batch.query_lens, batch.host_context_lens, batch.encoder_lens, strict=True)
    for sequence, (queries, context, length) in enumerate(host):
        encoded = length if queries == context else 0
        if encoded:
            lengths.append(length)
            encoder_rows += range(row, row + length)
        decoder_rows += range(row + encoded, row + queries)
        query_lens.append(queries - encoded)
        sequences += [sequence] * query_lens[-1]
        row += queries

    def on_device(values: Iterable[int], dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(list(values), device=batch.slots.device, dtype=dtype)

    rows = on_device(decoder_rows, torch.int64)
    own = replace(
        batch,
        query_start=on_device(itertools.accumulate(query_lens, initial=0)),
        slots=batch.slots[rows],
        query_lens=query_lens,
        first_keys=on_device(batch.encoder_lens),
        host_first_keys=batch.encoder_lens,
    )
    encoder_lens = [batch.encoder_lens[sequence] for sequence in sequences]
    cross = replace(
        own,
        num_decodes=len(sequences),
        query_start=on_device(range(len(sequences) + 1)),
        context_lens=on_device(encoder_lens),
        block_tables=batch.block_tables[on_device(sequences, torch.int64)],
        query_lens=[1] * len(sequences),
        host_context_lens=encoder_lens,
        first_keys=None,
        host_first_keys=[],
    )
    return Step(on_device(encoder_rows, torch.int64), rows, lengths, own, cross)
