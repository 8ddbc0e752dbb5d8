"""The pool of KV cache blocks: who holds which, and what the unheld ones still remember.

Called by the scheduler only. Plain Python: no tensor lives here, only block numbers.

Every block is in exactly one of two places:

    held    reference count >= 1: in the block lists of that many requests
    free    reference count 0: in `_free`, oldest first; taken from the front

A *full* block may carry a key, the digest of all tokens from the start of the sequence to the block's end and of the
cache salt. Keys survive freeing: a new request whose prompt has the same prefix takes the block back, contents and all
(the prefix cache), until the block is taken for other contents. Since only full blocks are shared and a request
always computes at least its last token itself, no shared block is ever written to.

Blocks may be freed, and taken by others, while a step under way still writes to them: that of a request which was
aborted, or whose last token, as turned out, came one step before. The device works in order, so whoever takes such a
block writes after that step. And what it writes lies behind all tokens of steps that have ended, while only blocks
full of those have keys: so it never changes what the prefix cache remembers.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b

from textgen_server.engine.request import Request


class BlockManager:
    """Blocks 0 .. num_blocks - 1 of `block_size` tokens each."""

    def __init__(self, num_blocks: int, block_size: int, prefix_caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._caching = prefix_caching
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_held(self) -> int:
        return self.num_blocks - len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks `num_tokens` tokens need."""
        return -(-num_tokens // self.block_size)

    # --- prefix cache -----------------------------------------------------------------------------------------------

    def find_prefix(self, request: Request) -> list[int]:
        """The cached blocks that begin with the request's own tokens, its last token excluded."""
        if not self._caching:
            return []
        found = []
        for key in self._keys(request, (len(request.tokens) - 1) // self.block_size):
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def missing(self, request: Request, prefix: list[int], claimed: int) -> int:
        """How many blocks too few are free for all of the request's tokens, given that it shares the blocks of
        `prefix`, and that others will still take `claimed` of the free ones. 0 or less: there is room."""
        revived = sum(1 for block in prefix if self._references[block] == 0)
        return self.blocks_for(len(request.tokens)) - len(prefix) - (self.num_free - revived - claimed)

    def num_alone(self, request: Request, besides: list[int]) -> int:
        """How many blocks the request holds that no other holds, and that are not among `besides`."""
        return sum(1 for block in request.blocks if self._references[block] == 1 and block not in besides)

    def start(self, request: Request, prefix: list[int]) -> None:
        """Give the request the blocks of `prefix`, as computed."""
        for block in prefix:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1
        request.blocks = list(prefix)
        request.num_computed = len(prefix) * self.block_size
        request.num_published = len(prefix)

    def publish(self, request: Request, num_tokens: int) -> None:
        """Offer the request's blocks that have become full to later requests with the same prefix: a step that has
        ended computed the first `num_tokens` tokens."""
        full = num_tokens // self.block_size
        if not self._caching or full <= request.num_published:
            return
        keys = self._keys(request, full)
        for index in range(request.num_published, full):
            block = request.blocks[index]
            # Where an equal block exists already (two equal prompts computed side by side), that one stays.
            if keys[index] not in self._block_of:
                self._block_of[keys[index]] = block
                self._key_of[block] = keys[index]
        request.num_published = full

    def _keys(self, request: Request, count: int) -> list[bytes]:
        """Keys of the request's first `count` full blocks. Each chains the one before, so equal keys mean equal
        prefixes (but for collisions of a 128-bit digest)."""
        keys = request.block_keys
        while len(keys) < count:
            start = len(keys) * self.block_size
            parent = keys[-1] if keys else f"{request.cache_salt}{' long' * request.long}".encode()
            tokens = array("I", request.tokens[start : start + self.block_size]).tobytes()
            keys.append(blake2b(tokens + parent, digest_size=16).digest())
        return keys[:count]

    # --- growing and letting go -------------------------------------------------------------------------------------

    def can_grow(self, request: Request, num_tokens: int) -> bool:
        """Can the request's blocks be made to cover `num_tokens` tokens?"""
        return self.blocks_for(num_tokens) - len(request.blocks) <= self.num_free

    def grow(self, request: Request, num_tokens: int) -> None:
        """Take free blocks until the request's cover `num_tokens` tokens. Ask `can_grow` first."""
        for _ in range(self.blocks_for(num_tokens) - len(request.blocks)):
            request.blocks.append(self._take())

    def _take(self) -> int:
        block, _ = self._free.popitem(last=False)
        self._references[block] = 1
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]
        return block

    def release(self, request: Request) -> None:
        """Take all blocks from the request. The prefix's end is forgotten before its start, blocks without a key
        before all others."""
        for block in reversed(request.blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                self._free.move_to_end(block, last=block in self._key_of)
        request.blocks = []
        request.num_computed = 0
        request.num_published = 0

    # --- for tests and debugging ------------------------------------------------------------------------------------

    def check_integrity(self, requests: Iterable[Request]) -> None:
        """Raise RuntimeError unless the books agree with the blocks that `requests`, all that there are, hold."""
        counted = [0] * self.num_blocks
        for request in requests:
            if len(set(request.blocks)) != len(request.blocks):
                raise RuntimeError(f"request {request.key} holds a block twice: {request.blocks}")
            if request.num_computed > len(request.blocks) * self.block_size:
                raise RuntimeError(f"request {request.key} has computed more tokens than its blocks hold")
            for block in request.blocks:
                counted[block] += 1
        if counted != self._references:
            raise RuntimeError(f"reference counts {self._references} but held {counted}")
        if {block for block, count in enumerate(counted) if count == 0} != set(self._free):
            raise RuntimeError("the free list is not the set of blocks that nobody holds")
        if {key: block for block, key in self._key_of.items()} != self._block_of:
            raise RuntimeError("the two directions of the prefix cache disagree")
