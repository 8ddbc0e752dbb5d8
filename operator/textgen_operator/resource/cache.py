"""Where weights are kept."""

from typing import ClassVar, Literal

from textgen_operator.resource.types import AbsolutePath, Name, Quantity
from textgen_operator.rules import Part, Rule

DEFAULT_CLAIM_SIZE = "100Gi"

_STAYS_PER_REPLICA = "has(self.type) && self.type == 'PerReplica' && has(oldSelf.type) && oldSelf.type == 'PerReplica'"


def _size(cache: str) -> str:
    return f"(has({cache}.size) ? {cache}.size : '{DEFAULT_CLAIM_SIZE}')"


class Cache(Part):
    """Where downloaded and converted weights are kept; mounted at /data in the pod."""

    type: Literal["Ephemeral", "PerReplica", "Existing", "HostPath"] | None = None
    """Ephemeral: gone with the pod. PerReplica: a volume claim for each replica. Existing: a claim that exists, shared
    by all replicas. HostPath: a folder of the node. Default: Ephemeral."""

    size: Quantity | None = None
    """Ephemeral: most bytes that may be used. PerReplica: size of each claim, 100Gi by default; it may grow where the
    storage class can expand volumes."""

    storage_class_name: Name | None = None
    """PerReplica: class of the claims. Default: the cluster's default class."""

    retain: bool = False
    """PerReplica: keep the claims when the service is deleted."""

    claim_name: Name | None = None
    """Existing: name of the volume claim."""

    path: AbsolutePath | None = None
    """HostPath: the folder. It must exist, and user 1000 must be able to write to it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "cache.claimName names the volume claim of cache.type Existing: give both or neither",
            "has(self.claimName) == (has(self.type) && self.type == 'Existing')",
            lambda cache: (cache.claim_name is not None) == (cache.type == "Existing"),
            ".claimName",
        ),
        Rule(
            "cache.path is the folder of cache.type HostPath: give both or neither",
            "has(self.path) == (has(self.type) && self.type == 'HostPath')",
            lambda cache: (cache.path is not None) == (cache.type == "HostPath"),
            ".path",
        ),
        Rule(
            "cache.storageClassName and cache.retain are for volume claims: set cache.type to PerReplica",
            "(!has(self.storageClassName) && !self.retain) || (has(self.type) && self.type == 'PerReplica')",
            lambda cache: (cache.storage_class_name is None and not cache.retain) or cache.type == "PerReplica",
            ".type",
        ),
        Rule(
            "cache.size is for cache.type Ephemeral and PerReplica: leave it out",
            "!has(self.size) || !has(self.type) || self.type in ['Ephemeral', 'PerReplica']",
            lambda cache: cache.size is None or cache.type in (None, "Ephemeral", "PerReplica"),
            ".size",
        ),
        Rule(
            "cache.size can only grow while cache.type is PerReplica, because volumes do not shrink: make a new "
            "service, or change cache.type first",
            f"!({_STAYS_PER_REPLICA}) || !isQuantity({_size('self')}) || !isQuantity({_size('oldSelf')}) || "
            f"quantity({_size('self')}).compareTo(quantity({_size('oldSelf')})) >= 0",
            None,
        ),
        Rule(
            "cache.storageClassName cannot be changed while cache.type is PerReplica, because the volume claims exist "
            "already: make a new service, or change cache.type first",
            f"!({_STAYS_PER_REPLICA}) || (has(self.storageClassName) == has(oldSelf.storageClassName) && "
            "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName))",
            None,
        ),
    )
