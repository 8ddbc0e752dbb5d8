"""What the custom resource goes by."""

GROUP = "textgen.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "TextGenerationService"
PLURAL = "textgenerationservices"

MAX_NAME_LENGTH = 45
"""Longest metadata.name: pods carry it plus a revision hash in a label of at most 63 characters."""
