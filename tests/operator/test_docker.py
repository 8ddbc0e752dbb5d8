"""The rendered pod as one `docker run` command."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from operator_samples import EXAMPLES, custom_resource, service
from ports import free_port

from textgen_operator.cli import main
from textgen_operator.docker import docker_command
from textgen_operator.local import LocalError
from textgen_operator.render import Defaults, render
from textgen_operator.yamlfile import load_service

ON_ONE_MACHINE = [example for example in EXAMPLES if load_service(example, None).spec.nodes == 1]
SECRET = {"secretKeyRef": {"name": "s", "key": "k"}}


def printed(hostname: str = "127.0.0.1", **spec: Any) -> str:
    resource = service(**spec)
    pod = render(resource, Defaults())[-1]["spec"]["template"]["spec"]
    return docker_command("chat", pod, resource.spec.gpu, hostname=hostname, port=9000)


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """A folder with a program of Docker's name that writes down how a shell called it."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\n"
        f"pathlib.Path({str(tmp_path / 'called')!r}).write_text(json.dumps(sys.argv[1:]))\n"
    )
    program.chmod(0o755)
    return program.parent


def called(lines: str, docker: Path, **environ: str) -> list[str]:
    """The words that reach Docker when a shell runs the lines."""
    shell = ["/bin/sh", "-ec", lines]
    subprocess.run(shell, env={"PATH": str(docker), **environ}, check=True, capture_output=True, text=True, timeout=60)
    words: list[str] = json.loads((docker.parent / "called").read_text())
    return words


def options(words: list[str], name: str) -> list[str]:
    return [value for option, value in itertools.pairwise(words) if option == name]


def test_the_container_gets_the_pods_image_arguments_and_variables(docker: Path) -> None:
    spec: dict[str, Any] = {
        "image": "registry/server:1",
        "env": [{"name": "A", "value": 'it\'s $HOME; "`x`"'}, {"name": "B", "value": "$(A)!"}],
        "extraArgs": ["--cors-allow-origin", "http://a b", "--log-level=$(A)"],
    }
    (container,) = render(service(**spec), Defaults())[-1]["spec"]["template"]["spec"]["containers"]
    words = called(printed(**spec), docker)
    at = words.index("registry/server:1")
    expected = [arg.replace("$(A)", spec["env"][0]["value"]) for arg in container["args"]]
    assert words[at + 1 :] == expected
    literal = [variable for variable in container["env"] if variable["name"] not in ("A", "B")]
    told = [f"{variable['name']}={variable['value']}" for variable in literal]
    assert options(words[:at], "--env") == [*told, f"A={spec['env'][0]['value']}", f"B={spec['env'][0]['value']}!"]


def test_it_may_do_what_the_pod_may_and_no_more(docker: Path) -> None:
    words = called(printed(gpu={"count": 2}, resources={"limits": {"cpu": "1500m", "memory": "4Gi"}}), docker)
    assert words[:2] == ["run", "--rm"]
    for option, value in {
        "--gpus": "2",
        "--cpus": "1.5",
        "--memory": "4g",
        "--shm-size": "2g",
        "--user": "1000:1000",
        "--cap-drop": "ALL",
        "--security-opt": "no-new-privileges",
        "--stop-timeout": "145",
        "--publish": "127.0.0.1:9000:8080",
        "--tmpfs": "/tmp:exec",
        "--volume": "chat-cache:/data",
    }.items():
        assert options(words, option) == [value], option
    assert "--read-only" in words


def test_without_a_gpu_none_is_asked_for_and_one_that_docker_has_no_word_for_is_told() -> None:
    assert "--gpus" not in printed(gpu={"count": 0})
    assert printed(gpu={"resourceName": "nvidia.com/mig-3g.40gb"}).startswith(
        "# Add the options by which Docker gives it 1 of nvidia.com/mig-3g.40gb.\n"
    )


def test_a_secret_is_passed_by_its_name_alone(docker: Path) -> None:
    lines = printed(huggingFace={"tokenSecretRef": {"name": "hub"}}, storageSecretRef={"name": "b"}, model="s3://a/b")
    assert "# First export HF_TOKEN: key token of Secret hub.\n" in lines
    assert "# First write b.env: NAME=value for each key of Secret b.\n" in lines
    words = called(lines, docker, HF_TOKEN="hf_secret")
    assert "HF_TOKEN" in options(words, "--env")
    assert options(words, "--env-file") == ["b.env"]
    assert "hf_secret" not in " ".join(words)


def test_files_of_secrets_are_those_that_the_caller_names_and_the_shell_asks_for_them(docker: Path) -> None:
    lines = printed(auth={"apiKeySecretRef": {"name": "keys"}}, tls={"secretName": "cert"})
    files = {"API_KEY_FILE": "/a b/$k", "SSL_CERTFILE": "/c", "SSL_KEYFILE": "/p"}
    assert options(called(lines, docker, **files), "--volume")[1:] == [
        "/a b/$k:/api-keys/keys:ro",
        "/c:/tls/tls.crt:ro",
        "/p:/tls/tls.key:ro",
    ]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        called(lines, docker)
    assert "API_KEY_FILE: names no file" in failed.value.stderr


def test_a_bucket_of_google_gets_its_credentials_as_a_file(docker: Path) -> None:
    lines = printed(model="gs://b/m", storageSecretRef={"name": "b", "key": "key.json"})
    words = called(lines, docker, GOOGLE_APPLICATION_CREDENTIALS="/me.json")
    assert "/me.json:/credentials/key.json:ro" in options(words, "--volume")


@pytest.mark.parametrize(
    ("cache", "volume"),
    [
        ({"type": "HostPath", "path": "/srv/models"}, "/srv/models:/data"),
        ({"type": "Existing", "claimName": "weights"}, "weights:/data"),
        ({"type": "PerReplica"}, "chat-cache:/data"),
    ],
    ids=["HostPath", "Existing", "PerReplica"],
)
def test_the_cache_is_a_folder_or_a_volume_of_dockers(cache: dict[str, Any], volume: str) -> None:
    assert f"--volume {volume} " in printed(cache=cache)
    assert "--volume weights:/claims/weights:ro " in printed(cache=cache, model="pvc://weights/llama")
    assert "--mount type=image,source=org/llama:1,target=/images/0 " in printed(model="oci://org/llama:1")


def test_what_it_cannot_do_is_said() -> None:
    containers = [
        {"name": "sidecar", "image": "x"},
        {"name": "server", "command": ["/bin/launch", "--fast"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
    ]
    pod = {"containers": containers, "volumes": [{"name": "v", "configMap": {"name": "v"}}], "securityContext": None}
    lines = printed(podTemplate={"spec": pod}, envFrom=[{"configMapRef": {"name": "m", "optional": True}}])
    assert "# Not run: container sidecar.\n" in lines
    assert "# Not mounted at /v: volume v.\n" in lines
    assert "# Left out: the optional variables of ConfigMap m.\n" in lines
    assert "--entrypoint /bin/launch " in lines
    assert "textgen-server:0.1.0 \\\n  --fast \\\n" in lines
    assert "--user" not in lines
    with pytest.raises(LocalError, match="holds a variable from a Secret"):
        printed(env=[{"name": "T", "valueFrom": SECRET}, {"name": "U", "value": "Bearer $(T)"}])


def test_what_a_template_takes_away_is_not_missed() -> None:
    gone = dict.fromkeys(("args", "resources", "securityContext", "imagePullPolicy"))
    pod = {"containers": [{"name": "server", **gone}], "terminationGracePeriodSeconds": None}
    lines = printed(podTemplate={"spec": pod})
    assert lines.endswith(" \\\n  textgen-server:0.1.0\n")
    assert not any(option in lines for option in ("--read-only", "--cap-drop", "--stop-timeout"))


def test_a_comment_stays_one() -> None:
    """Whoever runs what is printed runs nothing else."""
    mount = {"name": "v", "mountPath": "/v\nreboot"}
    pod = {
        "containers": [{"name": "server", "volumeMounts": [mount]}],
        "volumes": [{"name": "v", "configMap": {"name": "v"}}],
    }
    lines = printed(podTemplate={"spec": pod}).splitlines()
    assert [line for line in lines if "reboot" in line] == ["# Not mounted at /v reboot: volume v."]


def test_an_address_of_ipv6_has_its_brackets() -> None:
    assert "--publish '[::1]:9000:8080' " in printed(hostname="::1")


@pytest.mark.parametrize("example", ON_ONE_MACHINE, ids=lambda path: path.stem)
def test_every_example_can_be_printed_with_the_installations_image(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a GPU nor a free port is asked of the machine that prints."""
    assert main(["run", str(example), "--print-docker", "--server-image", "mine:1"]) == 0
    lines = capsys.readouterr().out
    assert " \\\n  --model-id " in lines
    assert ("mine:1" in lines) == (load_service(example, None).spec.image is None)


def test_what_is_not_of_one_machine_is_refused_with_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "two-nodes.yaml"
    file.write_text(json.dumps(custom_resource(nodes=2, gpu={"count": 0})))
    for more in ([], ["--print-docker"]):
        assert main(["run", str(file), "--port", str(free_port()), *more]) == 1
        assert "leave that out here" in capsys.readouterr().err
