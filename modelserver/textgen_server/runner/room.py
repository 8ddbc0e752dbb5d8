"""How many bytes of its device a rank may still use. Asked before weights are read, and when the KV cache is sized."""

import torch

from textgen_server import host_memory
from textgen_server.parallel import Group
from textgen_server.settings import ServerOptions


def free_bytes(options: ServerOptions, device: torch.device, group: Group) -> int | None:
    """What other processes, the flags, and this process itself leave; None where nobody tells. May be less than 0."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(total * options.cuda_memory_fraction) - (total - free)
    free_here = host_memory.free_bytes()
    return None if free_here is None else free_here // group.size_here


def spare_bytes(options: ServerOptions, device: torch.device, group: Group, step: int) -> int | None:
    """What can be taken for good, so that a step of `step` bytes still fits; None where nobody tells. May be less
    than 0."""
    free = free_bytes(options, device, group)
    if free is None:
        return None
    if device.type == "cuda":  # what the allocator holds for the next step
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free - step


def device_name(device: torch.device) -> str:
    """What people call the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
