"""Which names reach the model, which an adapter, and which nothing."""

import pytest
from front import FakeEngine

from textgen_server.errors import ModelNotFound
from textgen_server.settings import ServerOptions
from textgen_server.text.models import ModelCatalogue


@pytest.fixture
def catalogue() -> ModelCatalogue:
    settings = ServerOptions(model_id="/models/tiny", served_model_name="tiny")
    return ModelCatalogue(settings, FakeEngine([], 0, adapters=["french", "law"]))


def test_the_served_name_comes_before_the_adapters(catalogue: ModelCatalogue) -> None:
    assert catalogue.names == ["tiny", "french", "law"]


@pytest.mark.parametrize("name", [None, "", "tgi", "dummy", "tiny", "/models/tiny"])
def test_the_model_answers_to_its_names_and_to_placeholders(catalogue: ModelCatalogue, name: str | None) -> None:
    assert catalogue.adapter_of_model(name) == ""


def test_an_adapter_is_found_by_its_name(catalogue: ModelCatalogue) -> None:
    assert catalogue.adapter_of_model("law") == "law"
    assert catalogue.adapter("law") == "law"


@pytest.mark.parametrize("adapter_id", [None, ""])
def test_no_adapter_id_means_the_model_itself(catalogue: ModelCatalogue, adapter_id: str | None) -> None:
    assert catalogue.adapter(adapter_id) == ""


def test_unknown_names_are_refused_with_those_that_exist(catalogue: ModelCatalogue) -> None:
    with pytest.raises(ModelNotFound, match="`gpt-4` does not exist; this server has `tiny`, `french`, `law`") as model:
        catalogue.adapter_of_model("gpt-4")
    with pytest.raises(ModelNotFound, match="`gpt-4` does not exist; this server has `french`, `law`") as adapter:
        catalogue.adapter("gpt-4")
    assert (model.value.field, adapter.value.field) == ("model", "adapter_id")
