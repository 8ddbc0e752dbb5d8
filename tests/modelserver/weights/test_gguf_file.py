from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize
from tiny_gguf import HIDDEN, llama_weights, write_gguf

from textgen_server.errors import CheckpointError
from textgen_server.weights.gguf_file import GgufFile


def add_one_of_each_type(writer: GGUFWriter) -> None:
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_int32("test.i32", -2_000_000_000)
    writer.add_uint64("test.u64", 2**63)
    writer.add_int64("test.i64", -(2**62))
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "naïve 🚀")
    writer.add_array("test.strings", ["a", "", "ß"])
    writer.add_array("test.floats", [0.5, -1.5])


def test_metadata_of_every_type_reads_as_the_library_reads_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", metadata=add_one_of_each_type)

    expected = {key: field.contents() for key, field in GGUFReader(path).fields.items() if not key.startswith("GGUF.")}

    assert GgufFile(path).metadata == expected
    assert expected["test.u64"] == 2**63


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_tensors_have_the_values_that_the_library_reads(tmp_path: Path, kind: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", kind=GGMLQuantizationType[kind])
    file = GgufFile(path)

    theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}

    assert list(file.tensors) == list(theirs)
    for name, tensor in theirs.items():
        expected = dequantize(tensor.data, tensor.tensor_type)
        ours = file.values(name, file.rows(name)).reshape(file.tensors[name].shape)
        assert np.array_equal(ours, expected), name


def test_tensors_begin_where_the_alignment_says(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    weights = llama_weights()

    def align(writer: GGUFWriter) -> None:
        writer.data_alignment = 4096
        writer.add_custom_alignment(4096)

    file = GgufFile(write_gguf(path, weights, metadata=align))

    assert file.tensors["token_embd.weight"].offset % 4096 == 0
    stored = file.values("token_embd.weight", file.rows("token_embd.weight"))
    assert np.array_equal(stored, weights["token_embd.weight"])


def test_a_file_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 200, 7), *range(200, len(whole) - 1, len(whole) // 100)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            GgufFile(cut)


def test_a_truncated_tensor_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[: -4 * HIDDEN])

    with pytest.raises(CheckpointError, match=r"truncated: tensor output_norm\.weight ends at byte"):
        GgufFile(path)


@pytest.mark.parametrize(
    ("position", "content", "complaint"),
    [
        (0, b"PK\3\4", "does not begin with the letters GGUF"),
        (4, (1).to_bytes(4, "little"), "version 1 is not supported"),
        (4, (3).to_bytes(4, "big"), "version 50331648 is not supported"),
        (8, (2**62).to_bytes(8, "little"), "not a usable GGUF file"),
        (16, (2**62).to_bytes(8, "little"), "not a usable GGUF file"),
        (24, (2**62).to_bytes(8, "little"), "ends in the middle of its metadata"),
    ],
)
def test_a_damaged_header_is_explained(tmp_path: Path, position: int, content: bytes, complaint: str) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    data = bytearray(path.read_bytes())
    data[position : position + len(content)] = content
    path.write_bytes(data)

    with pytest.raises(CheckpointError, match=complaint):
        GgufFile(path)


def test_a_value_of_the_wrong_type_names_the_key(tmp_path: Path) -> None:
    file = GgufFile(write_gguf(tmp_path / "m.gguf"))

    with pytest.raises(CheckpointError, match=r"llama\.block_count must be str, not int"):
        file.find("llama.block_count", str)
    with pytest.raises(CheckpointError, match=r"the metadata lacks llama\.nothing"):
        file.need("llama.nothing", int)
