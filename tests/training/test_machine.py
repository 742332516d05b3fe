"""The machine: freed memory is given back, and lack of it is said in the recipe's words."""

import sys

import psutil
import pytest
import torch

from mclir_nb.training import machine, recipes


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc on Linux")
def test_memory_that_was_kept_is_given_back():
    resident = psutil.Process().memory_info
    machine.keep_freed_memory()
    tensors = [torch.ones(2**18) for _ in range(300)]  # 1 MB each
    last = torch.ones(1)  # above them in the heap, so that its end stays in use
    del tensors
    kept = resident().rss
    machine.return_freed_memory()
    assert kept - resident().rss > 200e6 and last.item() == 1


ON_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("error", [ON_CPU, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_lack_of_memory_names_the_fields_to_turn_down(error):
    with pytest.raises(machine.OutOfMemory, match=r"batch_size .*8.*patch_size .*128.*val_side") as caught:
        with machine.explain_out_of_memory(recipes.get("gpu")):
            raise error
    assert caught.value.__cause__ is error


def test_lack_of_memory_in_validation_is_lack_of_memory():
    with pytest.raises(machine.OutOfMemory), machine.explain_out_of_memory(recipes.get("gpu")):
        raise ValueError("cpu has too little memory for 64x64 pixels at once") from ON_CPU


def test_unknown_devices_are_refused():
    with pytest.raises(ValueError, match="gpu.*cuda:N"):
        machine.pick_device("gpu")
    with pytest.raises(ValueError, match="cuda:99"):
        machine.pick_device("cuda:99")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_has_the_number_that_torch_wants_of_it(name, monkeypatch):
    """`torch.cuda.set_device` refuses a device without; this is how it looks at one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert torch.cuda._utils._get_device_index(machine.pick_device(name)) == 0
