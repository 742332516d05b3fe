"""A GPU that is not there: tensors stay on the CPU, those that would be on the GPU are marked, and mixing them fails.

It shows which device a tensor would be on, not what a GPU computes, how fast, or whether a kernel exists.
"""

import types
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
# what may mix devices: copies, and indices on the CPU
MIXING = {"aten::copy_", "aten::index", "aten::index_put_", "aten::_index_put_impl_"}


class Marks:
    """The storages that would be on the GPU. They are kept, so that no other one gets the number of a marked one."""

    def __init__(self) -> None:
        self.storages: dict[int, Any] = {}

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.storages

    def put(self, tensor: Tensor, on_gpu: bool) -> Tensor:
        """Mark it, or take its mark away."""
        storage = tensor.untyped_storage()
        self.storages.pop(storage._cdata, None)
        if on_gpu:
            self.storages[storage._cdata] = storage
        return tensor


class _Marking:
    """A mode that knows the marks."""

    def __init__(self, marks: Marks):
        super().__init__()
        self.marks = marks


class _Follow(_Marking, TorchDispatchMode):
    """Results of marked tensors are marked; a marked and an unmarked one, unless that is a number, fail."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor in self.marks for tensor in given]
        name = func._schema.name
        apart = [here for tensor, here in zip(given, there, strict=True) if here or tensor.ndim]
        if any(apart) and not all(apart) and name not in MIXING:
            shapes = [
                (tuple(tensor.shape), "GPU" if here else "CPU") for tensor, here in zip(given, there, strict=True)
            ]
            raise RuntimeError(f"{name} with tensors on two devices: {shapes}")
        made = func(*args, **kwargs or {})
        for tensor in tree_leaves(made) if any(there) and name != "aten::copy_" else ():
            if isinstance(tensor, Tensor):
                self.marks.put(tensor, True)
        return made


class _Place(_Marking, TorchFunctionMode):
    """`device=`, `.to`, `.cpu` and `.device` speak of marks in place of devices."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (Tensor.device.__get__, Tensor.is_cuda.__get__):  # type: ignore[attr-defined]
            here = args[0] in self.marks
            return here if func == Tensor.is_cuda.__get__ else GPU if here else CPU  # type: ignore[attr-defined]
        if func == Tensor.cpu:
            return self._moved(args[0], CPU)
        if func == Tensor.to:
            image, *rest = args
            if rest and isinstance(rest[0], Tensor):
                rest = [GPU if rest[0] in self.marks else CPU, rest[0].dtype]
            copy = kwargs.pop("copy", False) or None
            device, dtype, _, layout = torch._C._nn._parse_to(*rest, **kwargs)
            return self._moved(image, device, copy, dtype=dtype, memory_format=layout)
        if func == Tensor.numpy and args[0] in self.marks:
            raise TypeError("can't convert a tensor on the GPU to numpy")
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            return self.marks.put(func(*args, **kwargs | {"device": "cpu"}), True)
        return func(*args, **kwargs)

    def _moved(self, image: Tensor, device, copy: bool | None = None, **how) -> Tensor:
        how = {name: value for name, value in how.items() if value is not None}
        on_gpu = image in self.marks if device is None else device.type == "cuda"
        if on_gpu == (image in self.marks) and not copy:
            return image.to(**how) if how else image
        return self.marks.put(torch.ops.aten._to_copy(image, **how), on_gpu)


@contextmanager
def pretended_gpu():
    """Everything in it that is put on `GPU` is there as far as Python can see; number formats are those of the CPU."""
    marks, autocast, scaler = Marks(), torch.autocast, torch.amp.GradScaler
    answers = dict.fromkeys(("synchronize", "reset_peak_memory_stats", "set_device"), None)
    answers |= {"memory_allocated": 0, "max_memory_allocated": 0, "get_device_name": "pretended GPU", "device_count": 1}
    answers |= {"get_device_properties": types.SimpleNamespace(total_memory=2**36)}
    with pytest.MonkeyPatch.context() as patch:
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
        patch.setattr(torch, "autocast", lambda _, *args, **kwargs: autocast("cpu", *args, **kwargs))
        patch.setattr(torch.amp, "GradScaler", lambda _, **kwargs: scaler("cpu", **kwargs))
        with _Place(marks), _Follow(marks):
            yield
