"""Conditions about what surrounds the pods: a scaler, and objects whose kinds a cluster may lack.

Unlike the others they are there only when the spec asks for such things:

    ScalingActive  the scaler is there, gets its metrics, and is the only one
    Integrated     every object that needs another project's kind could be made
    RequestsHeld   requests wait for the first replica where there may be none
"""

from collections.abc import Iterator

from textgen_operator.diagnosis.finding import condition
from textgen_operator.foreign_scalers import ForeignScaler
from textgen_operator.kinds import AUTOSCALERS, SCALED_OBJECTS, SERVICES_OF_OURS
from textgen_operator.render import interception
from textgen_operator.status.observed import Intent, Observed
from textgen_operator.status.verdict import Verdict

SCALING_ACTIVE = "ScalingActive"
INTEGRATED = "Integrated"
REQUESTS_HELD = "RequestsHeld"
FOREIGN_SCALER = "ForeignScaler"

_SCALERS = (AUTOSCALERS, SCALED_OBJECTS)
_OWN_CONDITION = {AUTOSCALERS.name: "ScalingActive", SCALED_OBJECTS.name: "Ready"}
"""Kind of a scaler -> its condition that says whether it can scale."""


def verdicts(observed: Observed) -> Iterator[Verdict]:
    """Those of the conditions that apply."""
    if observed.intent is None:
        return
    if observed.intent.foreign_scaler is not None:
        yield _foreign(observed.intent, observed.intent.foreign_scaler)
    elif observed.intent.service.spec.autoscaling and not observed.intent.service.spec.suspend:
        yield _scaling(observed, observed.intent)
    if interception.is_wanted(observed.intent.service.spec):
        yield _held(observed, observed.intent)
    absent = [kind for kind in observed.intent.absent if kind not in _SCALERS]
    if absent:
        yield Verdict(INTEGRATED, "False", "KindNotServed", "; ".join(kind.absence for kind in absent))


def _held(observed: Observed, intent: Intent) -> Verdict:
    if obstacle := interception.obstacle(intent.service, intent.served):
        return Verdict(REQUESTS_HELD, "False", *obstacle)
    parents = (observed.route or {}).get("status", {}).get("parents", [])
    for refused in (condition({"status": parent}, "ResolvedRefs") for parent in parents):
        if refused.get("status") == "False":
            message = f"The gateway does not reach the interceptor ({refused.get('message', '')}): see docs/resource.md"
            return Verdict(REQUESTS_HELD, "False", "RouteNotPermitted", message)
    where = interception.address(intent.service, intent.served)
    message = f"Requests that come by the Ingress, the HTTPRoute or {where} wait for the first replica"
    return Verdict(REQUESTS_HELD, "True", "Intercepted", message)


def _foreign(intent: Intent, scaler: ForeignScaler) -> Verdict:
    does = f"{scaler.name} scales {scaler.target}"
    if intent.service.spec.autoscaling is not None:
        message = f"{does}, beside the service's own scaler: delete it, or leave autoscaling out"
        return Verdict(SCALING_ACTIVE, "False", FOREIGN_SCALER, message)
    if scaler.scales_pods:
        better = f"{SERVICES_OF_OURS.name} {intent.service.metadata.name} ({SERVICES_OF_OURS.api_version})"
        message = f"{does}, and not the service, whose replicas do not count meanwhile: have it scale {better}"
        return Verdict(SCALING_ACTIVE, "False", FOREIGN_SCALER, message)
    return Verdict(SCALING_ACTIVE, "True", FOREIGN_SCALER, does)


def _scaling(observed: Observed, intent: Intent) -> Verdict:
    for kind in intent.absent:
        if kind in _SCALERS:
            return Verdict(SCALING_ACTIVE, "False", "ScalerMissing", kind.absence)
    if observed.scaler is None:
        return Verdict(SCALING_ACTIVE, "False", "ScalerMissing", "The scaler has not been made yet")
    kind = observed.scaler["kind"]
    own = condition(observed.scaler, _OWN_CONDITION[kind])
    if own.get("status") == "True":
        return Verdict(SCALING_ACTIVE, "True", "Scaling", f"{kind} {observed.scaler['metadata']['name']} is at work")
    if own.get("status") == "False":
        message = f"{kind}: {own.get('message') or own.get('reason', 'no reason given')}"
        return Verdict(SCALING_ACTIVE, "False", "MetricsUnavailable", message)
    return Verdict(SCALING_ACTIVE, "Unknown", "Pending", f"{kind} has not said yet whether it can scale")
