"""API keys and certificates, which reach the server as files: it reads them again when they change."""

from textgen_operator.kinds import Manifest
from textgen_operator.resource import Spec

KEYS_FOLDER = "/api-keys"
KEY_FILE = f"{KEYS_FOLDER}/keys"
TLS_FOLDER = "/tls"

_READABLE_BY_GROUP = 0o440
_KEYS = "api-keys"
_TLS = "tls"


def options(spec: Spec) -> dict[str, str]:
    """The server's options. A key itself is in none of them, because arguments can be seen."""
    found = {"api_key_file": KEY_FILE} if spec.auth.api_key_secret_ref else {}
    if spec.tls:
        found |= {"ssl_certfile": f"{TLS_FOLDER}/tls.crt", "ssl_keyfile": f"{TLS_FOLDER}/tls.key"}
    return found


def volumes(spec: Spec) -> list[Manifest]:
    """The Secrets."""
    found: list[Manifest] = []
    if ref := spec.auth.api_key_secret_ref:
        items = [{"key": ref.key, "path": KEY_FILE.rpartition("/")[2]}]
        secret = {"secretName": ref.name, "items": items, "defaultMode": _READABLE_BY_GROUP}
        found.append({"name": _KEYS, "secret": secret})
    if spec.tls:
        secret = {"secretName": spec.tls.secret_name, "defaultMode": _READABLE_BY_GROUP}
        found.append({"name": _TLS, "secret": secret})
    return found


def mounts(spec: Spec) -> list[Manifest]:
    """Where they are in the container: whole folders, because a single mounted file would never change."""
    found: list[Manifest] = []
    if spec.auth.api_key_secret_ref:
        found.append({"name": _KEYS, "mountPath": KEYS_FOLDER, "readOnly": True})
    if spec.tls:
        found.append({"name": _TLS, "mountPath": TLS_FOLDER, "readOnly": True})
    return found
