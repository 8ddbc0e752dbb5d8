"""Where the server finds what it reads: addresses of the spec -> what is mounted, and what the server is told."""

from textgen_operator.kinds import Manifest
from textgen_operator.resource import Spec

CLAIMS_FOLDER = "/claims"
CREDENTIALS_FOLDER = "/credentials"

CLAIM_VOLUME = "claim-"
"""How the names of volumes with models begin."""

_CLAIM = "pvc://"
_CREDENTIALS = "credentials"


def for_server(source: str) -> str:
    """An address as the server takes it: hf:// is the hub, which needs no prefix, and a claim is mounted."""
    if source.startswith(_CLAIM):
        return f"{CLAIMS_FOLDER}/{source.removeprefix(_CLAIM)}"
    return source.removeprefix("hf://")


def name_for_clients(model: str) -> str | None:
    """The model's name in the API where the server would show a path that only its pod has; else None."""
    return model if model.startswith(_CLAIM) else None


def adapters(spec: Spec) -> list[str]:
    """What --lora-adapters takes."""
    return [
        f"{adapter.name}={for_server(adapter.source)}" + (f"@{adapter.revision}" if adapter.revision else "")
        for adapter in spec.adapters
    ]


def volumes(spec: Spec) -> list[Manifest]:
    """Volume claims with weights, and the Secret that a Google client reads as a file."""
    found: list[Manifest] = [
        {"name": _volume_name(spec, claim), "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        for claim in _claims(spec)
    ]
    if _has_google_credentials(spec) and spec.storage_secret_ref:
        found.append({"name": _CREDENTIALS, "secret": {"secretName": spec.storage_secret_ref.name}})
    return found


def mounts(spec: Spec) -> list[Manifest]:
    """Where they are in the container."""
    found: list[Manifest] = [
        {"name": _volume_name(spec, claim), "mountPath": f"{CLAIMS_FOLDER}/{claim}", "readOnly": True}
        for claim in _claims(spec)
    ]
    if _has_google_credentials(spec):
        found.append({"name": _CREDENTIALS, "mountPath": CREDENTIALS_FOLDER, "readOnly": True})
    return found


def env(spec: Spec) -> list[Manifest]:
    """The variable that tells a Google client where its credentials are."""
    if not (_has_google_credentials(spec) and spec.storage_secret_ref):
        return []
    path = f"{CREDENTIALS_FOLDER}/{spec.storage_secret_ref.key}"
    return [{"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": path}]


def env_from(spec: Spec) -> list[Manifest]:
    """The Secret whose keys are the variables of AWS's clients."""
    if spec.storage_secret_ref is None or "s3" not in spec.schemes:
        return []
    return [{"secretRef": {"name": spec.storage_secret_ref.name, "optional": False}}]


def _has_google_credentials(spec: Spec) -> bool:
    return spec.storage_secret_ref is not None and "gs" in spec.schemes


def _claims(spec: Spec) -> list[str]:
    """Names of the volume claims, each once."""
    paths = [source.removeprefix(_CLAIM) for source in spec.sources if source.startswith(_CLAIM)]
    return list(dict.fromkeys(path.partition("/")[0] for path in paths))


def _volume_name(spec: Spec, claim: str) -> str:
    # A claim's name may be longer than a volume's, and have dots.
    return f"{CLAIM_VOLUME}{_claims(spec).index(claim)}"
