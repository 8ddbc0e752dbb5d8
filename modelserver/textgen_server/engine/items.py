"""A request's share of a step, from what the request knows. Called by the scheduler."""

from collections.abc import Sequence

from textgen_server.engine.plan import Item, Sample
from textgen_server.engine.request import Request


def next_item(request: Request, guesses: Sequence[int] = ()) -> Item:
    """One step of a decode, whose last token need not be known yet. (Of most requests in most steps: so it is short.)

    Args:
        guesses: of the tokens behind the last one, which is known then.
    """
    start = request.num_computed
    if request.num_chosen:
        tokens, follows = [0], request.follows
    else:
        tokens, follows = [request.tokens[start], *guesses], -1
    item = Item(tokens, start, request.blocks, _sample(request), follows=follows)
    item.drafts = len(guesses)
    item.encoder_length, item.adapter, item.long = request.encoder_length, request.adapter, request.long
    return item


def chunk_item(request: Request, length: int) -> Item:
    """The next `length` tokens of what is to be prefilled."""
    start = request.num_computed
    end = start + length
    targets: Sequence[int] = ()
    if request.needs_scores:
        targets = request.tokens[start + 1 : min(end + 1, request.prompt_length)]
    return Item(
        tokens=request.tokens[start:end],
        start=start,
        blocks=request.blocks,
        sample=_sample(request) if end == request.length else None,
        targets=targets,
        top_targets=request.sampling.top_tokens if targets else 0,
        encoder_length=request.encoder_length,
        adapter=request.adapter,
        long=request.long,
    )


def _sample(request: Request) -> Sample:
    sampling = request.sampling
    position = request.length - request.prompt_length
    if request.foreseeable:
        return Sample(sampling, position)
    history = request.tokens[request.encoder_length :] if sampling.needs_history else None
    return Sample(sampling, position, history, request.tokens[-1], request.constraint)
