"""Which part of a layer a rank holds."""

from dataclasses import dataclass

from textgen_server.parallel import Group


class TooManyRanks(ValueError):
    """There are more ranks than things to share."""


def partition(total: int, group: Group) -> tuple[int, int]:
    """(start, length) of this rank's share of `total` things in a row, the first ranks taking one more where the number
    does not divide. Every rank gets at least one.

    Raises:
        TooManyRanks: there are more ranks than things.
    """
    if total < group.size:
        raise TooManyRanks(f"{total} cannot be shared by {group.size} ranks")
    share, extra = divmod(total, group.size)
    return group.rank * share + min(group.rank, extra), share + (group.rank < extra)


@dataclass(frozen=True)
class Heads:
    """The query heads and KV heads of one rank, as ranges over the model's.

    With grouped-query attention, query head h reads KV head h // (num_heads // num_kv_heads). Ranks get whole KV heads
    while there are enough; beyond that, several ranks hold a copy of one KV head and share its query heads.
    """

    q_start: int
    q_count: int
    kv_start: int
    kv_count: int

    @classmethod
    def of(cls, num_heads: int, num_kv_heads: int, group: Group) -> "Heads":
        """Raises TooManyRanks where there are more ranks than query heads."""
        per_kv = num_heads // num_kv_heads
        if group.size <= num_kv_heads:
            start, count = partition(num_kv_heads, group)
            return cls(start * per_kv, count * per_kv, start, count)
        if group.size > num_heads:
            raise TooManyRanks(f"{num_heads} attention heads cannot be shared by {group.size} ranks")
        share, extra = divmod(group.size, num_kv_heads)
        boundaries = [kv * share + min(kv, extra) for kv in range(num_kv_heads + 1)]
        kv = max(kv for kv in range(num_kv_heads) if boundaries[kv] <= group.rank)
        sharers = Group(group.rank - boundaries[kv], boundaries[kv + 1] - boundaries[kv])
        start, count = partition(per_kv, sharers)
        return cls(kv * per_kv + start, count, kv, 1)
