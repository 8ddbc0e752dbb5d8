"""THE custom resource: what a TextGenerationService may say, what its status says, and the names it goes by.

crd.py turns these classes into the CustomResourceDefinition; `TextGenerationService.model_validate` reads what users
and the API server send. What the server can be told (names, bounds, choices) comes from its settings and registry.
Each file holds the parts of one concern; spec.py puts them together.
"""

from textgen_operator.resource.cache import Cache
from textgen_operator.resource.hardware import Gpu, Toleration
from textgen_operator.resource.lifecycle import Rollout
from textgen_operator.resource.model import Limits
from textgen_operator.resource.names import API_VERSION, GROUP, KIND, MAX_NAME_LENGTH, PLURAL, VERSION
from textgen_operator.resource.references import EnvFrom, EnvVar
from textgen_operator.resource.service import ObjectMeta, Problem, TextGenerationService, problems
from textgen_operator.resource.spec import OWNED_ENV, OWNED_OPTIONS, Spec
from textgen_operator.resource.status import Condition, Status

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "MAX_NAME_LENGTH",
    "OWNED_ENV",
    "OWNED_OPTIONS",
    "PLURAL",
    "VERSION",
    "Cache",
    "Condition",
    "EnvFrom",
    "EnvVar",
    "Gpu",
    "Limits",
    "ObjectMeta",
    "Problem",
    "Rollout",
    "Spec",
    "Status",
    "TextGenerationService",
    "Toleration",
    "problems",
]
