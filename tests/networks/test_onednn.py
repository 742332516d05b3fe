"""Linear maps, 1x1 convolutions and attention through oneDNN: PyTorch's numbers, on any layout, and when it is left."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mclir_nb import networks
from mclir_nb.method import features
from mclir_nb.networks import onednn

WIDE = (2048, 32, 64)  # few features to many, rows enough for every path


def parts(rows, inputs, outputs, bias=True):
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, inputs), (outputs, inputs), (outputs,)]
    tensors = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return tensors if bias else [*tensors[:2], None]


def gradients(result, tensors):
    upstream = torch.linspace(-1, 1, result.numel()).view(result.shape)
    return torch.autograd.grad(result, [t for t in tensors if t is not None], upstream)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4 * float(b.detach().abs().max()), rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [WIDE, (2048, 64, 32), (64, 256, 512), (9, 512, 256)])
def test_a_linear_map_and_its_gradients(rows, inputs, outputs, bias):
    tensors = parts(rows, inputs, outputs, bias)
    assert onednn.suits(*tensors[:2])
    ours, theirs = onednn.linear(*tensors), F.linear(*tensors)
    close(ours, theirs)
    for a, b in zip(gradients(ours, tensors), gradients(theirs, tensors), strict=True):
        close(a, b)
    with torch.no_grad():
        assert torch.equal(onednn.linear(*tensors), ours)


def test_gaps_between_rows_do_not_matter():
    x, weight, bias = parts(*WIDE)
    wide = torch.cat([x, x], 1)[:, 8:40]
    result = onednn.linear(wide, weight, bias)
    close(result, F.linear(wide, weight, bias))
    upstream = torch.cat([result.detach()] * 2, 1)[:, 8:72]  # rows with gaps come back as well
    (ours,) = torch.autograd.grad(result, weight, upstream)
    close(ours, upstream.t() @ wide.detach())


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_convolution_and_its_gradients(layout, bias):
    x = torch.randn(2, 32, 32, 40).contiguous(memory_format=layout).requires_grad_()
    conv = nn.Conv2d(32, 48, 1, bias=bias)
    tensors = [x, *conv.parameters()]
    theirs = conv(x)
    ours = onednn.use(nn.Sequential(conv))(x)
    assert type(conv) is onednn.Pointwise
    close(ours, theirs)
    assert ours.stride() == theirs.stride()
    for a, b in zip(gradients(ours, tensors), gradients(theirs, tensors), strict=True):
        close(a, b)
        assert a.shape == b.shape
    assert torch.relu_(conv(x)).requires_grad  # may be changed in place


@pytest.mark.parametrize("name", networks.names())
def test_a_history_equal_to_the_model_gives_the_same_bits(name):
    scale = 4 if name in ("swinir", "swinir-light", "edsr") else 1
    network = networks.build(name, scale, **networks.options(name, "tiny")).eval()
    side = {"idt": 128}.get(name, 48)
    lq = torch.rand(2, 3, side, side).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        history = network(lq)
    assert torch.equal(network(lq), history)  # or the signs of l_neg would be those of rounding


@pytest.mark.parametrize("name", ["lite0", "vgg16"])
def test_features_do_not_depend_on_the_other_images_of_a_batch(name):
    net, threads = features.build(name, "random" if name == "vgg16" else None), torch.get_num_threads()
    torch.set_num_threads(1)  # on more, PyTorch's own small convolutions are shared out by the size of the batch
    images = torch.rand(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        together = net(images)
    alone = net(images[:1].clone(memory_format=torch.channels_last).requires_grad_())
    torch.set_num_threads(threads)
    assert all(torch.equal(alone[layer], together[layer][:1]) for layer in alone)


def test_what_does_not_suit_takes_pytorchs_path():
    x, weight, _ = parts(*WIDE)
    assert onednn.suits(x, weight)
    assert not onednn.suits(x.double(), weight.double())
    assert not onednn.suits(x[:8], weight)  # tiny
    assert not onednn.suits(x.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not onednn.suits(x, weight)
        assert onednn.linear(x, weight, None).dtype is torch.bfloat16
    with onednn.off():
        assert not onednn.suits(x, weight)
    assert onednn.suits(x, weight)


def test_a_pytorch_without_the_operator_works(monkeypatch):
    tensors = parts(*WIDE)
    monkeypatch.setattr(onednn, "_OPERATOR", None)
    assert torch.equal(onednn.linear(*tensors), F.linear(*tensors))


def test_a_second_derivative_is_refused():
    x, weight, bias = parts(*WIDE)
    (first,) = torch.autograd.grad(onednn.linear(x, weight, bias).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_its_multiplications_are_counted():
    x, weight, bias = parts(*WIDE)
    with FlopCounterMode(display=False) as counter:
        onednn.linear(x, weight, bias).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2048 * 32 * 64


@pytest.mark.parametrize("name", ["dehazeformer-t", "idt", "swinir-light", "nafnet", "promptir"])
def test_a_network_keeps_its_numbers(name):
    scale = 2 if name == "swinir-light" else 1
    torch.manual_seed(0)
    network = networks.build(name, scale, **networks.options(name, "tiny")).eval()
    assert any(isinstance(m, (onednn.Linear, onednn.Pointwise)) for m in network.modules())
    side = 128 if name == "idt" else 64
    lq = torch.rand(1, 3, side, side).contiguous(memory_format=torch.channels_last)
    weights = [p for p in network.parameters() if p.requires_grad]
    results = []
    for _ in range(2):
        restored = network(lq)
        grads = torch.autograd.grad(restored.square().sum(), weights, allow_unused=True)
        results.append((restored.detach(), torch.cat([g.flatten() for g in grads if g is not None])))
        with onednn.off():
            restored = network(lq)
            grads = torch.autograd.grad(restored.square().sum(), weights, allow_unused=True)
        results.append((restored.detach(), torch.cat([g.flatten() for g in grads if g is not None])))
    assert torch.equal(results[0][1], results[2][1])  # the same bits each time
    close(results[0][0], results[1][0])
    assert F.cosine_similarity(results[0][1], results[1][1], dim=0) > 0.99999
