"""Whether the download into a shared cache is done: until then the StatefulSet stays as it is.

Pure; called by children.py.
"""

from textgen_operator.diagnosis.finding import condition
from textgen_operator.kinds import Manifest
from textgen_operator.status import Obstacle


def obstacle(job: Manifest) -> Obstacle | None:
    """Why pods may not start yet; None when the weights are there.

    Args:
        job: the download, as it is.
    """
    name = job["metadata"]["name"]
    if condition(job, "Complete").get("status") == "True":
        return None
    failed = condition(job, "Failed")
    if failed.get("status") == "True":
        message = f"Job {name} could not download the model: {failed.get('message', '')}; its pods' logs say why. "
        return Obstacle("DownloadFailed", message + "Delete the Job, or change the spec, to try again", accepted=True)
    tries = job.get("status", {}).get("failed", 0)
    again = f", after {tries} failed attempts" if tries else ""
    return Obstacle("Downloading", f"Job {name} downloads the model{again}; pods start when it is done", accepted=True)
