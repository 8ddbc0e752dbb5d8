"""Holds manifests against the kserve package's models, which are generated from KServe's definitions. Run in an
environment of its own:

    python kserve_manifests.py FILE...

Prints what does not fit, as a JSON list of sentences.
"""

import json
import re
import sys
from pathlib import Path

import kserve
import yaml
from kubernetes import client as kubernetes

MODELS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}
PLAIN = {"str": str, "bool": bool, "int": int, "float": (int, float), "object": object, "datetime": str}


def problems(value, kind, path):
    """What does not fit of `value`, which should be of `kind`, as the models name their types."""
    if match := re.fullmatch(r"list\[(.+)\]", kind, re.IGNORECASE):
        if not isinstance(value, list):
            yield f"{path} is no list"
            return
        for place, item in enumerate(value):
            yield from problems(item, match[1], f"{path}[{place}]")
    elif match := re.fullmatch(r"dict[\[(]str, ?(.+)[\])]", kind, re.IGNORECASE):
        for name, item in value.items():
            yield from problems(item, match[1], f"{path}.{name}")
    elif kind not in PLAIN:
        model = getattr(kserve.models, kind, None) or getattr(kubernetes.models, kind)
        yield from problems_of_object(value, model, path)
    elif not isinstance(value, PLAIN[kind]) or (kind == "int" and isinstance(value, bool)):
        yield f"{path} is no {kind}: {value!r}"


def problems_of_object(value, model, path):
    attributes = {name: attribute for attribute, name in model.attribute_map.items()}
    known = {attributes[name]: inner for name, inner in value.items() if name in attributes}
    for name in value.keys() - attributes.keys():
        yield f"{path}.{name} is not known"
    for attribute, inner in known.items():
        yield from problems(inner, model.openapi_types[attribute], f"{path}.{model.attribute_map[attribute]}")
    try:
        model(**known)
    except ValueError as error:
        yield f"{path}: {error}"


found = []
for file in sys.argv[1:]:
    manifest = yaml.safe_load(Path(file).read_text())
    found += problems(manifest, MODELS[manifest["kind"]], Path(file).name)
print(json.dumps(found))
