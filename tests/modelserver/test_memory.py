"""What a model asks of memory, and which flags are said to help where there is too little: by arithmetic alone."""

import re
from pathlib import Path

import pytest

from textgen_server import host_memory
from textgen_server.memory import Demand, Form, ModelSize, demand, shortage
from textgen_server.registry import QUANTIZATION_METHODS
from textgen_server.settings import parse

GB = 10**9
# Mistral 7B: 32 layers, 8 KV heads of 128.
MISTRAL = ModelSize(linear=6_979_321_856, other=262_410_240, cached=2 * 32 * 8 * 128)
HALVES = Form("bfloat16", "bfloat16", tokens=4096)


def test_weights_and_cache_add_up() -> None:
    assert demand(MISTRAL, HALVES) == Demand(2 * 7_241_732_096, 4096 * 131_072)
    four_bit = demand(MISTRAL, Form("bfloat16", "fp8_e4m3fn", 4096, linear_bits=4.5))
    assert four_bit.weights == pytest.approx(6_979_321_856 * 4.5 / 8 + 2 * 262_410_240)
    assert four_bit.kv_cache == pytest.approx(4096 * 65_536 * 8.5 / 8)


def test_what_fits_lacks_nothing() -> None:
    assert shortage(MISTRAL, HALVES, demand(MISTRAL, HALVES).total, "a GPU") is None


def test_what_is_missing_is_told_in_gb_with_its_parts() -> None:
    lack = shortage(MISTRAL, HALVES, 10 * GB, "NVIDIA L4")
    assert lack is not None
    assert lack.startswith(
        "the model needs 14.5 GB of weights and 0.5 GB of KV cache for 4096 tokens, and 10.0 GB are free on NVIDIA L4: "
        "5.0 GB are missing; it would fit with --quantize "
    )


@pytest.mark.parametrize("room", [1, 4, 6, 8, 10, 14, 14.6, 14.8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_flag_that_is_said_to_help_does(room: float, dtype: str) -> None:
    form, free = Form(dtype, dtype, tokens=4096), int(room * GB)
    lack = shortage(MISTRAL, form, free, "a GPU") or ""
    flags = dict(re.findall(r"(--[a-z-]+) (\S+)", lack))
    assert flags, "some number of shards always suffices"
    for flag, value in flags.items():
        parse([flag, value])
        size, dtype_then, cache_dtype, tokens, bits = MISTRAL, dtype, dtype, 4096, None
        match flag:
            case "--max-total-tokens":
                tokens = int(value)
            case "--dtype":
                dtype_then = cache_dtype = value
            case "--quantize":
                bits = QUANTIZATION_METHODS[value].bits
            case "--kv-cache-dtype":
                cache_dtype = value
            case "--num-shard":
                size = MISTRAL.shard(int(value))
        assert demand(size, Form(dtype_then, cache_dtype, tokens, bits)).total <= free, flag


def test_shards_are_said_as_they_are_on_each_node() -> None:
    shard = MISTRAL.shard(4)
    lack = shortage(shard, HALVES, demand(shard, HALVES).total * 3 // 4, "a GPU", shards=4, nodes=2) or ""
    assert "--num-shard 4" in lack  # 2 on each of the nodes are too few


def test_on_the_cpu_more_shards_do_not_help() -> None:
    lack = shortage(MISTRAL, HALVES, GB, "cpu", gpu=False)
    assert lack is not None
    assert lack.endswith("choose a smaller model, or a place with more memory")


def test_every_method_that_quantizes_as_it_loads_says_how_many_bits_it_takes() -> None:
    assert all(0 < method.bits < 16 for method in QUANTIZATION_METHODS.values() if not method.stored)


class TestHost:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        write(tmp_path / "proc/meminfo", "MemTotal: 900 kB\nMemAvailable: 500 kB\n")
        return tmp_path

    def test_a_machine_without_limits_has_what_is_available(self, root: Path) -> None:
        assert host_memory.free_bytes(root) == 500 * 1024

    @pytest.mark.parametrize("group", ["", "kubepods/pod1/server"])
    def test_a_container_has_what_its_limit_leaves_and_files_can_be_dropped(self, root: Path, group: str) -> None:
        """Its group is at the top of what it sees, or lies in the host's tree."""
        write(root / "proc/self/cgroup", f"0::/{group}\n")
        folder = root / "sys/fs/cgroup" / group
        write(folder / "memory.max", "100000\n")
        write(folder / "memory.current", "70000\n")
        write(folder / "memory.stat", "anon 50000\ninactive_file 15000\nactive_file 5000\n")
        assert host_memory.free_bytes(root) == 50000

    def test_the_tightest_of_the_groups_above_counts(self, root: Path) -> None:
        write(root / "proc/self/cgroup", "0::/pod/server\n")
        for path, limit in (("pod/server", "max"), ("pod", "9000")):
            write(root / "sys/fs/cgroup" / path / "memory.max", limit)
            write(root / "sys/fs/cgroup" / path / "memory.current", "2000")
        assert host_memory.free_bytes(root) == 7000

    def test_control_groups_of_version_1_count_too(self, root: Path) -> None:
        write(root / "proc/self/cgroup", "5:cpu:/\n4:memory:/host/path\n0::/\n")
        folder = root / "sys/fs/cgroup/memory"
        write(folder / "memory.limit_in_bytes", "100000")
        write(folder / "memory.usage_in_bytes", "90000")
        write(folder / "memory.stat", "inactive_file 1\ntotal_inactive_file 20000\n")
        assert host_memory.free_bytes(root) == 30000

    def test_where_nothing_is_told_nothing_is_known(self, tmp_path: Path) -> None:
        assert host_memory.free_bytes(tmp_path) is None
        assert host_memory.held_bytes(tmp_path) == host_memory.peak_bytes(tmp_path) == 0


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
