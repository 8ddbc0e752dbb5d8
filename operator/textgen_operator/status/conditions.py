"""What was observed -> the conditions.

All of them are written each time, so that none can go stale:

    Accepted       the spec makes sense, and what it refers to exists
    ModelReady     the weights are found, and where they are kept
    Scheduled      every pod of the current spec has a node
    Progressing    pods are being started or replaced
    Available      at least one pod answers, of whatever revision
    Ready          every pod of the current spec answers

Those of memory.py and integrations.py are there only where they apply.
"""

from textgen_operator.diagnosis import MODEL_REASONS, SCHEDULING_REASONS, Diagnosis, diagnose
from textgen_operator.diagnosis.finding import condition, is_ready
from textgen_operator.kinds import Manifest
from textgen_operator.status import integrations, memory, progress
from textgen_operator.status.advance import resting, unwanted
from textgen_operator.status.observed import Observed, Obstacle
from textgen_operator.status.verdict import Verdict

ACCEPTED = "Accepted"
MODEL_READY = "ModelReady"
SCHEDULED = "Scheduled"
PROGRESSING = "Progressing"
AVAILABLE = "Available"
READY = "Ready"
CONDITIONS = (ACCEPTED, MODEL_READY, SCHEDULED, PROGRESSING, AVAILABLE, READY)


def verdicts(observed: Observed, overdue: str | None) -> list[Verdict]:
    """Every condition.

    Args:
        observed: what there is.
        overdue: that a rollout has not come forward for too long, if that is so.
    """
    diagnosis = diagnosis_of(observed)
    return [
        _accepted(observed.obstacle),
        _model_ready(observed, diagnosis),
        _scheduled(observed, diagnosis),
        _progressing(observed, diagnosis, overdue),
        _available(observed),
        _ready(observed, diagnosis),
        *memory.verdicts(observed),
        *integrations.verdicts(observed),
    ]


def diagnosis_of(observed: Observed) -> Diagnosis | None:
    """What keeps the service from being ready; None when it is, or when nothing is to be seen."""
    if observed.all_ready:
        return None
    found = diagnose(observed.evidence)
    if found and found.reason == "Starting" and observed.progress:
        return Diagnosis("Starting", f"Pod {observed.progress.pod} is {observed.progress}", blocking=False)
    return found or observed.complaint


def _accepted(obstacle: Obstacle | None) -> Verdict:
    if obstacle is None or obstacle.accepted:
        return Verdict(ACCEPTED, "True", "Accepted", "The spec is valid")
    return Verdict(ACCEPTED, "False", obstacle.reason, obstacle.message)


def _model_ready(observed: Observed, diagnosis: Diagnosis | None) -> Verdict:
    if observed.obstacle and observed.obstacle.reason in ("Downloading", "DownloadFailed"):
        return Verdict(MODEL_READY, "False", observed.obstacle.reason, observed.obstacle.message)
    if observed.all_ready or any(map(is_ready, observed.current_pods)):
        return Verdict(MODEL_READY, "True", "Loaded", "A pod serves the model")
    if diagnosis and diagnosis.reason in MODEL_REASONS:
        return Verdict(MODEL_READY, "False", diagnosis.reason, diagnosis.message)
    if observed.progress and observed.progress.stage == progress.LOADING:
        return Verdict(MODEL_READY, "True", "Cached", "The weights are there, and are being loaded")
    if observed.progress:
        return Verdict(MODEL_READY, "False", observed.progress.stage.capitalize(), str(observed.progress))
    if diagnosis and diagnosis.reason == "Starting":
        return Verdict(MODEL_READY, "False", "Resolving", "The server looks for the model")
    return Verdict(MODEL_READY, "Unknown", "NoPods", "No pod has come as far as to look for the model")


def _scheduled(observed: Observed, diagnosis: Diagnosis | None) -> Verdict:
    if observed.wanted == 0:
        return Verdict(SCHEDULED, "Unknown", "NoPods", "No pods are wanted")
    if diagnosis and diagnosis.reason in SCHEDULING_REASONS:
        return Verdict(SCHEDULED, "False", diagnosis.reason, diagnosis.message)
    wanted = observed.wanted * observed.tally.pods_each
    bound = wanted if observed.all_ready else sum(map(_is_bound, observed.current_pods))
    message = f"{bound} of {wanted} pods of the current spec have a node"
    if bound >= wanted:
        return Verdict(SCHEDULED, "True", "Scheduled", message)
    return Verdict(SCHEDULED, "Unknown", "Pending", message)


def _is_bound(pod: Manifest) -> bool:
    return "nodeName" in pod.get("spec", {}) or is_ready(pod) or condition(pod, "PodScheduled").get("status") == "True"


def _available(observed: Observed) -> Verdict:
    ready = observed.counts["readyReplicas"]
    if ready:
        return Verdict(AVAILABLE, "True", "ReadyPods", f"{ready} of {observed.wanted} {observed.noun} answer")
    if rests := unwanted(observed):
        return Verdict(AVAILABLE, "False", *rests)
    return Verdict(AVAILABLE, "False", "NoReadyPods", "No pod answers")


def _progressing(observed: Observed, diagnosis: Diagnosis | None, overdue: str | None) -> Verdict:
    if observed.obstacle:
        return Verdict(PROGRESSING, "False", observed.obstacle.reason, observed.obstacle.message)
    if rests := resting(observed):
        return Verdict(PROGRESSING, "False", *rests)
    counts = observed.counts
    updated, ready = counts["updatedReplicas"], counts["readyReplicas"]
    done = f"{updated} of {observed.wanted} {observed.noun} are up to date, {ready} answer"
    if overdue:
        why = diagnosis.message if diagnosis else done
        return Verdict(PROGRESSING, "False", "ProgressDeadlineExceeded", f"{overdue}; {why}")
    if diagnosis and diagnosis.blocking:
        return Verdict(PROGRESSING, "False", "RolloutBlocked", diagnosis.message)
    return Verdict(PROGRESSING, "True", "RollingOut", done)


def _ready(observed: Observed, diagnosis: Diagnosis | None) -> Verdict:
    if observed.obstacle:
        return Verdict(READY, "False", observed.obstacle.reason, observed.obstacle.message)
    if observed.all_ready:
        return Verdict(
            READY, "True", "Ready", f"All {observed.noun} ({observed.wanted}) run the current spec and answer"
        )
    if rests := unwanted(observed):
        return Verdict(READY, "False", *rests)
    if diagnosis:
        return Verdict(READY, "False", diagnosis.reason, diagnosis.message)
    if rests := resting(observed):
        return Verdict(READY, "False", *rests)
    return Verdict(READY, "False", "RollingOut", "Pods are being started or replaced")
