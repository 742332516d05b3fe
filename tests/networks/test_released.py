"""The steps of the released code, beside ours."""

import copy

import pytest
import torch

from mclir_nb import networks
from mclir_nb.experiments import timing
from mclir_nb.networks import onednn
from mclir_nb.networks.released import as_released

NAMES = ["ffanet", "dehazeformer-t", "dehazeformer-m", "idt", "swinir-light", "edsr", "nafnet"]


@pytest.mark.parametrize("name", NAMES)
def test_they_give_the_same_numbers_and_gradients(name):
    torch.manual_seed(0)
    scale = 2 if name in ("swinir-light", "edsr") else 1
    ours = networks.build(name, scale, **networks.options(name, "tiny")).double().eval()
    with torch.no_grad():
        for weight in ours.parameters():  # NAFNet's gates start at zero
            weight.add_(torch.randn_like(weight), alpha=0.1)
    theirs = as_released(copy.deepcopy(ours))
    assert list(theirs.state_dict()) == list(ours.state_dict())
    lq = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    restored = ours(lq)
    upstream = torch.rand_like(restored)
    with onednn.off():
        again = theirs(lq)
    torch.testing.assert_close(again, restored)
    restored.backward(upstream)
    again.backward(upstream)
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None and not key.endswith("attn.meta.2.bias"):  # softmax cancels it: rounding
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-6, atol=1e-8 * a.grad.abs().max().item())


def test_nafnet_keeps_channels_first():
    network = as_released(networks.build("nafnet", **networks.options("nafnet", "tiny")))
    layouts = []
    for block in network.core.modules():
        if isinstance(block, networks.nafnet.Block):
            block.register_forward_hook(lambda _, __, x: layouts.append(x.is_contiguous()))
    network(torch.rand(1, 3, 32, 32))
    assert layouts and all(layouts)


@pytest.mark.parametrize("name", timing.PATCHES)
def test_the_reference_of_a_measurement_takes_them(name):
    parts = timing.reference(timing.OurSteps(timing.small(name, network_size="tiny"), torch.device("cpu")))
    for network in (parts.model, *parts.histories, parts.ema):
        assert any(type(m).__module__ == as_released.__module__ for m in network.modules())
