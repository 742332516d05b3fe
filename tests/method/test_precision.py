"""Precisions by name, and the share of the gradient above rounding."""

import operator
import subprocess
import sys

import pytest
import torch
from torch import nn

from mclir_nb.method import features, precision

CPU = torch.device("cpu")


SWITCHES = {
    name: operator.attrgetter(name)(torch.backends)
    for name in ("cudnn", "cudnn.conv", "cuda.matmul", "mkldnn", "mkldnn.conv", "mkldnn.matmul")
} | {"all": torch.backends}


def in_force() -> dict[str, str]:
    return {name: switch.fp32_precision for name, switch in SWITCHES.items()}


@pytest.fixture
def put_back():
    before = in_force()
    yield
    for name in ("all", *SWITCHES):
        SWITCHES[name].fp32_precision = before[name]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["nothing", *SWITCHES])
def test_tf32_is_off_whatever_the_user_set_and_his_setting_comes_back(name, legacy, put_back):
    if legacy and name in ("cudnn", "cuda.matmul"):
        SWITCHES[name].allow_tf32 = True
    elif name in SWITCHES:
        SWITCHES[name].fp32_precision = "tf32"
    before = in_force()
    with precision.full_float32():
        assert set(in_force().values()) == {"ieee"}
        with precision.autocast("tf32", torch.device("cuda")):
            assert set(in_force().values()) == {"tf32"}
        with precision.autocast("tf32", CPU):
            assert set(in_force().values()) == {"ieee"}
    assert in_force() == before
    with pytest.raises(RuntimeError, match="stop"), precision.autocast("float32", CPU):
        raise RuntimeError("stop")
    assert in_force() == before


def test_a_setting_made_later_is_followed_and_a_network_can_be_exported_where_tf32_is_forbidden():
    """In a process of its own: what a switch was before anybody set it cannot be set again."""
    script = (
        "import torch; from mclir_nb.method import precision; b = torch.backends\n"
        "with precision.full_float32(): pass\n"
        "b.fp32_precision = 'ieee'; print(b.cudnn.conv.fp32_precision, b.cuda.matmul.fp32_precision)\n"
        "precision.forbid_tf32(); torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.split() == ["ieee", "ieee"] and not found.returncode, found.stderr


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_a_precision_is_what_a_network_computes_in(name, dtype):
    with precision.autocast(name, CPU):
        assert nn.Conv2d(3, 4, 3)(torch.rand(1, 3, 8, 8)).dtype == dtype
    with precision.autocast("bfloat16", CPU), precision.autocast("float32", CPU):
        assert nn.Conv2d(3, 4, 3)(torch.rand(1, 3, 8, 8)).dtype == torch.float32


def test_an_unknown_precision_is_named():
    with pytest.raises(ValueError, match="float8"), precision.autocast("float8", CPU):
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
