"""A clock that tests can be held to."""

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mclir_nb.experiments import timing


@pytest.fixture
def clock_of_flops(monkeypatch):
    """What a step computes stands for how long it takes; of convolutions without groups the counts are right."""

    class Counter(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            result = operator(*args, **(kwargs or {}))
            if flops := flop_registry.get(operator.overloadpacket):
                self.total += flops(*args, **(kwargs or {}), out_val=result)
            return result

    def flops(step, device):
        with Counter() as counter:
            step()
        return counter.total

    monkeypatch.setattr(timing, "seconds", flops)
