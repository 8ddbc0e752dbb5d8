"""What is sent to the API server, and when nothing is."""

import copy
import json
from pathlib import Path

import pytest
from kmock import RawHandler

from textgen_operator import apply
from textgen_operator.client import Client
from textgen_operator.kinds import Manifest, kind_of

RECORDED = Path(__file__).parent / "recorded"
JSON_PATCH = "application/json-patch+json"
REPAIRER = {"manager": "textgen-operator-repair", "operation": "Update", "fieldsV1": {}}


@pytest.fixture
def kmock_options(kmock_options: dict[str, object]) -> dict[str, object]:
    return kmock_options | {"cls": RawHandler}


def recorded(name: str) -> tuple[Manifest, Manifest]:
    pair = json.loads((RECORDED / f"{name}.json").read_text())
    return pair["desired"], pair["live"]


_, SERVICE = recorded("service")
ONLY_IF_UNCHANGED = {
    "op": "replace",
    "path": "/metadata/resourceVersion",
    "value": SERVICE["metadata"]["resourceVersion"],
}


def path_of(manifest: Manifest) -> str:
    return kind_of(manifest).path(manifest["metadata"]["namespace"], manifest["metadata"]["name"])


async def test_nothing_is_sent_for_what_is_as_it_should_be(client: Client, kmock: RawHandler) -> None:
    desired, live = recorded("statefulset")
    assert await apply.apply(client, desired, live) == live
    assert len(kmock) == 0


async def test_applying_names_the_object_that_was_looked_at(client: Client, kmock: RawHandler) -> None:
    desired, live = recorded("statefulset")
    kmock["patch", path_of(desired)] << live
    drifted = copy.deepcopy(live)
    drifted["spec"]["replicas"] = 9
    await apply.apply(client, desired, drifted)
    (request,) = kmock
    assert request.params == {"fieldManager": "textgen-operator", "force": "true"}
    assert json.loads(request.body)["metadata"]["uid"] == live["metadata"]["uid"]


async def test_a_new_object_is_applied_as_rendered(client: Client, kmock: RawHandler) -> None:
    desired, live = recorded("service")
    kmock["patch", path_of(desired)] << live
    assert await apply.apply(client, desired, None) == live
    (request,) = kmock
    assert json.loads(request.body) == desired


async def test_items_of_others_are_removed_first_and_the_repair_leaves_no_owner(
    client: Client, kmock: RawHandler
) -> None:
    desired, live = recorded("service")
    repaired = copy.deepcopy(live)
    repaired["metadata"]["managedFields"].append(REPAIRER)
    place = len(repaired["metadata"]["managedFields"]) - 1
    answers = iter([repaired, repaired, live])
    kmock["patch", path_of(desired)] << (lambda request: next(answers))

    invaded = copy.deepcopy(live)
    invaded["spec"]["ports"] = [{"name": "http", "port": 81, "protocol": "TCP"}]
    assert await apply.apply(client, desired, invaded) == live

    removal, application, cleaning = (json.loads(request.body) for request in kmock)
    assert [request.headers["Content-Type"] == JSON_PATCH for request in kmock] == [True, False, True]
    assert removal == [
        ONLY_IF_UNCHANGED,
        {"op": "add", "path": "/spec/ports", "value": desired["spec"]["ports"]},
    ]
    assert application["spec"] == desired["spec"]
    assert cleaning == [ONLY_IF_UNCHANGED, {"op": "remove", "path": f"/metadata/managedFields/{place}"}]


async def test_a_repair_that_was_interrupted_is_finished(client: Client, kmock: RawHandler) -> None:
    desired, live = recorded("service")
    kmock["patch", path_of(desired)] << live
    left = copy.deepcopy(live)
    left["metadata"]["managedFields"].insert(0, REPAIRER)
    assert await apply.apply(client, desired, left) == live
    (request,) = kmock
    assert json.loads(request.body) == [ONLY_IF_UNCHANGED, {"op": "remove", "path": "/metadata/managedFields/0"}]


async def test_a_status_that_says_the_same_is_not_sent(client: Client, kmock: RawHandler) -> None:
    desired, live = recorded("status")
    await apply.write_status(client, live, desired["status"])
    assert len(kmock) == 0


async def test_a_status_goes_to_its_subresource(client: Client, kmock: RawHandler) -> None:
    desired, live = recorded("status")
    path = "/apis/textgen.dev/v1alpha1/namespaces/models/textgenerationservices/llama-70b/status"
    kmock["patch", path] << live
    await apply.write_status(client, live, desired["status"] | {"readyReplicas": 2})
    (request,) = kmock
    assert request.url.path == path
    assert json.loads(request.body).keys() == {"apiVersion", "kind", "metadata", "status"}


def test_only_what_cannot_be_changed_makes_a_statefulset_anew() -> None:
    desired, live = recorded("statefulset")
    assert not apply.must_replace(desired, live)
    desired["spec"]["replicas"] = 9
    desired["spec"]["template"]["spec"]["containers"] = []
    assert not apply.must_replace(desired, live)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("serviceName", "other"),
        ("podManagementPolicy", "OrderedReady"),
        ("selector", {"matchLabels": {"a": "b"}}),
        ("volumeClaimTemplates", []),
    ],
)
def test_each_fixed_field_does(field: str, value: object) -> None:
    desired, live = recorded("statefulset")
    desired["spec"][field] = value
    assert apply.must_replace(desired, live)


def test_the_form_of_a_claims_size_does_not() -> None:
    desired, live = recorded("statefulset")
    desired["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] = "307200Mi"
    assert not apply.must_replace(desired, live)


def test_a_service_is_never_made_anew() -> None:
    desired, live = recorded("service")
    desired["spec"]["type"] = "ExternalName"
    assert not apply.must_replace(desired, live)
