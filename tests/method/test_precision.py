"""Precisions by name, and the share of the gradient above rounding."""

import pytest
import torch
from torch import nn

from mclir_nb.method import features, precision

CPU = torch.device("cpu")


def test_float32_switches_tf32_off_and_puts_it_back(monkeypatch):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    with precision.autocast("float32", CPU):
        assert not matmul.allow_tf32 and not cudnn.allow_tf32
        with precision.autocast("tf32", CPU):
            assert matmul.allow_tf32 and cudnn.allow_tf32
        assert not cudnn.allow_tf32
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (before[0], True)
    with pytest.raises(RuntimeError, match="stop"), precision.autocast("float32", CPU):
        raise RuntimeError("stop")
    assert cudnn.allow_tf32


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_a_precision_is_what_a_network_computes_in(name, dtype):
    with precision.autocast(name, CPU):
        assert nn.Conv2d(3, 4, 3)(torch.rand(1, 3, 8, 8)).dtype == dtype
    with precision.autocast("bfloat16", CPU), precision.autocast("float32", CPU):
        assert nn.Conv2d(3, 4, 3)(torch.rand(1, 3, 8, 8)).dtype == torch.float32


def test_an_unknown_precision_is_named():
    with pytest.raises(ValueError, match="'float8' is unknown; use one of float32"), precision.autocast("float8", CPU):
        pass


def test_signal_counts_what_stands_above_rounding():
    net = features.build("lite0")
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    far, near, same = image + 0.1 * noise, image + 1e-5 * noise, image.clone()
    full = precision.signal(image, [far, near, same], net)
    assert full[0] > 0.95 and 0.3 < full[1] < full[0] and full[2] == 0
    coarse = precision.signal(image, [far, near, same], net, precision.ROUNDING["bfloat16"])
    assert coarse[0] > 0.5 and coarse[1] < 0.01
    assert precision.signal(image, [], net).shape == (0,)
