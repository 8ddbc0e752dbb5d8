"""Where the server finds what it reads: addresses of the spec -> what is mounted, and what the server is told."""

from textgen_operator.kinds import Manifest
from textgen_operator.resource import Spec

CLAIMS_FOLDER = "/claims"
CREDENTIALS_FOLDER = "/credentials"

IMAGES_FOLDER = "/images"

CLAIM_VOLUME = "claim-"
IMAGE_VOLUME = "image-"
"""How the names of volumes with models begin."""

_CLAIM = "pvc://"
_IMAGE = "oci://"
_CREDENTIALS = "credentials"


def for_server(source: str, spec: Spec) -> str:
    """An address as the server takes it: hf:// is the hub, which needs no prefix; claims and images are mounted."""
    if source.startswith(_CLAIM):
        return f"{CLAIMS_FOLDER}/{source.removeprefix(_CLAIM)}"
    if source.startswith(_IMAGE):
        image, _, path = source.removeprefix(_IMAGE).partition("#")
        return f"{_image_folder(spec, image)}/{path}".rstrip("/")
    return source.removeprefix("hf://")


def name_for_clients(model: str) -> str | None:
    """The model's name in the API where the server would show a path that only its pod has; else None."""
    return model if model.startswith((_CLAIM, _IMAGE)) else None


def adapters(spec: Spec) -> list[str]:
    """What --lora-adapters takes."""
    return [
        f"{adapter.name}={for_server(adapter.source, spec)}" + (f"@{adapter.revision}" if adapter.revision else "")
        for adapter in spec.adapters
    ]


def volumes(spec: Spec) -> list[Manifest]:
    """Volume claims and images with weights, and the Secret that a Google client reads as a file."""
    found: list[Manifest] = [
        {"name": _volume_name(spec, claim), "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        for claim in _claims(spec)
    ]
    found += [
        {"name": _image_volume(spec, image), "image": {"reference": image, "pullPolicy": spec.image_pull_policy}}
        for image in _images(spec)
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
    found += [
        {"name": _image_volume(spec, image), "mountPath": _image_folder(spec, image), "readOnly": True}
        for image in _images(spec)
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


def _images(spec: Spec) -> list[str]:
    """References of the images, each once."""
    found = [source.removeprefix(_IMAGE).partition("#")[0] for source in spec.sources if source.startswith(_IMAGE)]
    return list(dict.fromkeys(found))


def _image_volume(spec: Spec, image: str) -> str:
    return f"{IMAGE_VOLUME}{_images(spec).index(image)}"


def _image_folder(spec: Spec, image: str) -> str:
    # A reference is no name of a folder.
    return f"{IMAGES_FOLDER}/{_images(spec).index(image)}"


def _volume_name(spec: Spec, claim: str) -> str:
    # A claim's name may be longer than a volume's, and have dots.
    return f"{CLAIM_VOLUME}{_claims(spec).index(claim)}"
