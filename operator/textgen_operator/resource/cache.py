"""Where weights are kept."""

from typing import ClassVar, Literal

from pydantic import Field

from textgen_operator.resource.types import AbsolutePath, Name, Quantity
from textgen_operator.rules import Part, Rule

DEFAULT_CLAIM_SIZE = "100Gi"
_WITH_CLAIMS = ("PerReplica", "Shared")

_CLAIMED = "has(self.type) && self.type in ['PerReplica', 'Shared']"
_STAYS_CLAIMED = f"{_CLAIMED} && has(oldSelf.type) && oldSelf.type == self.type"


def _size(cache: str) -> str:
    return f"(has({cache}.size) ? {cache}.size : '{DEFAULT_CLAIM_SIZE}')"


class Cache(Part):
    """Where downloaded and converted weights are kept; mounted at /data in the pod."""

    type: Literal["Ephemeral", "PerReplica", "Shared", "Existing", "HostPath"] | None = None
    """Ephemeral: gone with the pod. PerReplica: a volume claim for each replica. Shared: one claim for all replicas.
    Existing: a claim that exists, for all replicas. HostPath: a folder of the node. Default: Ephemeral."""

    size: Quantity | None = None
    """Ephemeral: most bytes that may be used. PerReplica and Shared: size of each claim, 100Gi by default; it may
    grow where the storage class can expand volumes."""

    storage_class_name: Name | None = None
    """PerReplica and Shared: class of the claims. Default: the cluster's default class."""

    retain: bool = False
    """PerReplica and Shared: keep the claims when the service is deleted."""

    access_modes: list[Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]] = Field(default=[], max_length=3)
    """Shared: how the claim can be mounted. Default: ReadWriteMany, which replicas on several nodes need."""

    warm: bool | None = None
    """Shared and Existing: download the model once, in a Job, before pods start. Default: true for Shared."""

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
            "cache.storageClassName and cache.retain are for volume claims: set cache.type to PerReplica or Shared",
            f"(!has(self.storageClassName) && !self.retain) || ({_CLAIMED})",
            lambda cache: (cache.storage_class_name is None and not cache.retain) or cache.type in _WITH_CLAIMS,
            ".type",
        ),
        Rule(
            "cache.size is for cache.type Ephemeral, PerReplica and Shared: leave it out",
            "!has(self.size) || !has(self.type) || self.type in ['Ephemeral', 'PerReplica', 'Shared']",
            lambda cache: cache.size is None or cache.type in (None, "Ephemeral", *_WITH_CLAIMS),
            ".size",
        ),
        Rule(
            "cache.accessModes is for cache.type Shared: leave it out",
            "!has(self.accessModes) || size(self.accessModes) == 0 || (has(self.type) && self.type == 'Shared')",
            lambda cache: not cache.access_modes or cache.type == "Shared",
            ".accessModes",
        ),
        Rule(
            "cache.warm is for cache.type Shared and Existing: leave it out",
            "!has(self.warm) || !self.warm || (has(self.type) && self.type in ['Shared', 'Existing'])",
            lambda cache: not cache.warm or cache.type in ("Shared", "Existing"),
            ".warm",
        ),
        Rule(
            "cache.size can only grow while cache.type is PerReplica or Shared, because volumes do not shrink: make a "
            "new service, or change cache.type first",
            f"!({_STAYS_CLAIMED}) || !isQuantity({_size('self')}) || !isQuantity({_size('oldSelf')}) || "
            f"quantity({_size('self')}).compareTo(quantity({_size('oldSelf')})) >= 0",
            None,
        ),
        Rule(
            "cache.storageClassName cannot be changed while cache.type is PerReplica or Shared, because the volume "
            "claims exist already: make a new service, or change cache.type first",
            f"!({_STAYS_CLAIMED}) || (has(self.storageClassName) == has(oldSelf.storageClassName) && "
            "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName))",
            None,
        ),
    )

    @property
    def is_warmed(self) -> bool:
        """Whether the model is downloaded before pods start."""
        return self.type == "Shared" if self.warm is None else self.warm
