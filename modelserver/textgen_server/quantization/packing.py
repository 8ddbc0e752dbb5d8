"""Numbers of a few bits in words of 32, as checkpoints store them: one behind the other, the lowest bits first.

Numbers whose width does not divide 32 run on in the next word: 32 numbers of 3 bits are three words.
"""

import math

import torch
from torch import Tensor


def words_for(count: int, bits: int) -> int:
    """How many words hold `count` numbers."""
    return -(-count * bits // 32)


def unpack(words: Tensor, bits: int, start: int, length: int) -> Tensor:
    """Numbers `start` to `start + length` of each column.

    Args:
        words: int32 [W, columns].
        bits: width of a number, 8 at most.

    Returns:
        uint8 [length, columns].
    """
    period = bits // math.gcd(bits, 32)  # words after which numbers and words begin together again
    per_period = 32 * period // bits
    first, last = start // per_period, -(-(start + length) // per_period)
    covered = words[first * period : last * period]
    missing = (last - first) * period - len(covered)
    if missing:  # the end of the matrix is no end of a period
        covered = torch.cat([covered, covered.new_zeros(missing, covered.shape[1])])
    covered = covered.view(-1, period, covered.shape[1])
    numbers = torch.empty(len(covered), per_period, covered.shape[2], dtype=torch.uint8, device=words.device)
    mask = (1 << bits) - 1
    for index in range(per_period):
        word, offset = divmod(index * bits, 32)
        number = covered[:, word] >> offset
        if offset + bits > 32:
            below = 32 - offset
            number = (number & ((1 << below) - 1)) | (covered[:, word + 1] << below)
        numbers[:, index] = number & mask
    return numbers.flatten(0, 1).narrow(0, start - first * per_period, length)


def pack(numbers: Tensor, bits: int) -> Tensor:
    """The inverse of `unpack`: uint8 [count, columns] -> int32 [words, columns], the last word filled up with zeros."""
    period = bits // math.gcd(bits, 32)
    per_period = 32 * period // bits
    count, columns = numbers.shape
    missing = -count % per_period
    if missing:
        numbers = torch.cat([numbers, numbers.new_zeros(missing, columns)])
    covered = numbers.view(-1, per_period, columns).int()
    words = torch.zeros(len(covered), period, columns, dtype=torch.int32, device=numbers.device)
    for index in range(per_period):
        word, offset = divmod(index * bits, 32)
        words[:, word] |= covered[:, index] << offset
        if offset + bits > 32:
            words[:, word + 1] |= covered[:, index] >> (32 - offset)
    return words.flatten(0, 1)[: words_for(count, bits)]
