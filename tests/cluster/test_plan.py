"""`textgen-operator plan` against a real API server, which does the dry runs."""

import subprocess
from pathlib import Path
from typing import Any

import yaml
from cluster.control_plane import ControlPlane
from cluster.kube import Namespace, eventually, service
from cluster.operator_process import PROGRAM, Operator

from textgen_operator.kinds import SERVICES, STATEFUL_SETS


def plan(plane: ControlPlane, namespace: Namespace, folder: Path, **spec: Any) -> tuple[int, str]:
    """Exit code and output of the command for `chat`."""
    file = folder / "service.yaml"
    file.write_text(yaml.safe_dump(service("chat", **spec)))
    done = subprocess.run(
        [PROGRAM, "plan", file, "-n", namespace.name],
        env={"KUBECONFIG": str(plane.kubeconfig("person")), "PATH": "/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_plan_tells_what_would_change_and_changes_nothing(
    operator: Operator, namespace: Namespace, plane: ControlPlane, tmp_path: Path
) -> None:
    gpu = {"count": 2}
    code, text = plan(plane, namespace, tmp_path, gpu=gpu, replicas=2)
    assert code == 0, text
    assert "create    StatefulSet chat" in text
    assert text.endswith("GPUs (nvidia.com/gpu): 0 now, 4 at peak, 4 afterwards\n")
    assert not namespace.exists(SERVICES, "chat")

    namespace.serve("chat", gpu=gpu, replicas=2, cache={"type": "PerReplica", "size": "10Gi"})
    before = eventually(lambda: namespace.stands("chat"))
    cache = {"type": "PerReplica", "size": "10Gi"}
    code, text = plan(plane, namespace, tmp_path, gpu=gpu, replicas=2, cache=cache)
    assert code == 0, text
    assert "unchanged StatefulSet chat" in text
    assert "pods: none restarts" in text

    code, text = plan(plane, namespace, tmp_path, gpu={"count": 1}, replicas=3, cache=cache, dtype="float16")
    assert code == 0, text
    assert "spec.template.spec.containers[0].args" in text
    assert "pods: 2 restart" in text
    assert "GPUs (nvidia.com/gpu): 4 now, 5 at peak, 3 afterwards" in text

    code, text = plan(plane, namespace, tmp_path, gpu=gpu, replicas=2)
    assert code == 0, text
    assert "replace   StatefulSet chat" in text

    code, text = plan(plane, namespace, tmp_path, gpu=gpu, cache=cache | {"storageClassName": "fast"})
    assert code == 1
    assert "refused: " in text
    assert "spec.cache: " in text
    assert "storageClassName" in text
    after = namespace.get(STATEFUL_SETS, "chat")
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
