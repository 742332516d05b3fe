"""Checkpoints: every published layout is read, nothing in a file runs, and what does not fit is explained."""

import os
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mclir_nb import networks

TINY = networks.options("edsr", "tiny")


@pytest.fixture(autouse=True)
def few_known_networks(monkeypatch):
    """Suggest only these, so that a test does not build every network of the package."""
    monkeypatch.setattr(networks, "NETWORKS", {name: networks.NETWORKS[name] for name in ("edsr", "ffanet")})
    networks._known.cache_clear()
    yield
    networks._known.cache_clear()


def edsr(seed: int = 0, scale: int = 2, **overrides) -> networks.Restorer:
    torch.manual_seed(seed)
    return networks.build("edsr", scale, **(TINY | overrides))


def ffanet(seed: int = 0) -> networks.Restorer:
    torch.manual_seed(seed)
    return networks.build("ffanet", **networks.options("ffanet", "tiny"))


def prefixed(prefix: str, network: networks.Restorer) -> OrderedDict:
    return OrderedDict((prefix + k, v) for k, v in network.core.state_dict().items())


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


LAYOUTS = {
    "bare": lambda n: prefixed("", n),
    "IDT": lambda n: prefixed("module.", n),
    "DehazeFormer": lambda n: {"state_dict": prefixed("module.", n)},
    "NAFNet": lambda n: {"params": prefixed("", n)},
    "BasicSR": lambda n: {"params": prefixed("", edsr(5)), "params_ema": prefixed("", n)},
    "PromptIR": lambda n: {"epoch": 3, "state_dict": prefixed("net.", n), "callbacks": {"best": {"k": 3}}},
    "compiled": lambda n: {"model": prefixed("module._orig_mod.", n)},
    "whole Restorer": lambda n: n.state_dict(),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_is_read(layout, zipped, tmp_path):
    source, target = edsr(1), edsr(2)
    torch.save(LAYOUTS[layout](source), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert not same(source, target)
    assert networks.load_checkpoint(target, tmp_path / "x.pth") is target
    assert same(source, target)


def ffanet_file(path, network) -> None:
    """As FFA-Net's training writes it: the old file format, DataParallel names, NumPy numbers."""
    scores = [np.float64(30.5), np.float32(0.9)]
    content = {"step": 7, "max_psnr": scores[0], "ssims": scores, "losses": [0.1], "psnrs": np.array([1.0, 2.0])}
    content["model"] = prefixed("module.", network)
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_ffanet_files_with_numbers_of_numpy_1_and_2_are_read(module, tmp_path):
    source, target, path = ffanet(1), ffanet(2), tmp_path / "its_train_ffa_3_19.pk"
    ffanet_file(path, source)
    content = path.read_bytes()
    for other in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        content = content.replace(b"c" + other + b"\n", b"c" + module + b"\n")
    path.write_bytes(content)
    assert b"c" + module + b"\nscalar" in content
    with pytest.raises(pickle.UnpicklingError):  # why a list of harmless stand-ins is needed at all
        torch.load(path, weights_only=True)
    networks.load_checkpoint(target, path)
    assert same(source, target)
    assert not any("numpy" in str(item) for item in torch.serialization.get_safe_globals())


@pytest.mark.parametrize("prefix", ["", "core.", "model/", "model/core.", "params_ema/module."])
def test_safetensors_are_read(prefix, tmp_path):
    source, target = edsr(1), edsr(2)
    save_file(prefixed(prefix, source), tmp_path / "x.safetensors")
    networks.load_checkpoint(target, tmp_path / "x.safetensors")
    assert same(source, target)


def test_one_of_several_networks_in_a_file_is_chosen(tmp_path):
    path, target = tmp_path / "run.safetensors", edsr(9)
    parts = {"model/core.": edsr(1), "ema_model/core.": edsr(2), "history/0/core.": edsr(3)}
    save_file({k: v for prefix, n in parts.items() for k, v in prefixed(prefix, n).items()}, path)
    for entry, seed in ((None, 1), ("ema_model", 2), ("history/0", 3)):
        assert same(networks.load_checkpoint(target, path, entry), edsr(seed))
    with pytest.raises(ValueError, match="holds 'ema_model', 'history/0', 'model'; choose one of them"):
        networks.load_checkpoint(target, path, "net_g")


def test_a_bare_core_and_half_precision_are_accepted(tmp_path):
    source, target = edsr(1), edsr(2)
    torch.save(source.half().core.state_dict(), tmp_path / "x.pth")
    networks.load_checkpoint(target.core, tmp_path / "x.pth")
    assert target.core.conv_first.weight.dtype == torch.float32
    assert torch.equal(target.core.conv_first.weight, source.core.conv_first.weight.float())


class Masked(nn.Module):
    """Stands for a window network whose buffers depend on the image size it was built for."""

    def __init__(self, side: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))
        self.register_buffer("attn_mask", torch.full((side, side), float(side)))


@pytest.mark.parametrize("keep_mask", [True, False])
def test_buffers_that_follow_from_the_image_size_keep_their_own_values(keep_mask, tmp_path):
    source, target = Masked(48), Masked(64)
    state = {k: v for k, v in source.state_dict().items() if keep_mask or k == "weight"}
    torch.save({"params": state}, tmp_path / "x.pth")
    networks.load_checkpoint(target, tmp_path / "x.pth")
    assert torch.equal(target.weight, source.weight)
    assert torch.equal(target.attn_mask, torch.full((64, 64), 64.0))


class Payload:
    """Unpickling this would create the file `mark`."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


class Call(Payload):
    def __reduce__(self):
        return exec, (f"import pathlib; pathlib.Path({str(self.mark)!r}).mkdir()",)


def write_zip(content, path):
    torch.save(content, path)


def write_old(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


def write_first_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=0))


@pytest.mark.parametrize("write", [write_zip, write_old, write_pickle, write_first_pickle])
@pytest.mark.parametrize("payload", [Payload, Call])
def test_a_malicious_pickle_never_runs(payload, write, tmp_path):
    mark, path, target = tmp_path / "mark", tmp_path / "x.pth", edsr(1)
    before = weights(target)
    write({"params": prefixed("", edsr(2)), "extra": payload(mark)}, path)
    message = "not a checkpoint" if write is write_first_pickle else "is refused: .* run"
    with pytest.raises(ValueError, match=message):
        networks.load_checkpoint(target, path)
    assert not mark.exists()
    assert all(map(torch.equal, before, weights(target)))
    torch.load(path, weights_only=False) if write in (write_zip, write_old) else pickle.loads(path.read_bytes())
    assert mark.exists()  # the payload is real: an unguarded reader runs it


def test_numpy_objects_cannot_be_used_to_smuggle_code(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "x.pth"
    torch.save({"model": prefixed("", edsr(2)), "psnrs": np.array([Payload(mark)], dtype=object)}, path)
    with pytest.raises(ValueError, match="mkdir"):
        networks.load_checkpoint(edsr(1), path)
    assert not mark.exists()


def test_a_pickled_network_is_refused(tmp_path):
    torch.save(edsr(1), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"mclir_nb.networks.Restorer'.* save the network's state_dict\(\) instead"):
        networks.load_checkpoint(edsr(1), tmp_path / "x.pth")


def damaged(kind: str, folder):
    """A file, or something in its place, that is no checkpoint."""
    path = folder / "x.pth"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("<html>Quota exceeded</html>\n" * 20)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "number":
        torch.save(3, path)
    elif kind == "no weights":
        torch.save({"step": 3, "params": {"lr": 0.1}}, path)
    elif kind == "sparse header":
        path.write_bytes(struct.pack("<Q", 2**40) + b"{")
    elif kind != "missing":
        write = {"zip": write_zip, "old": write_old, "safetensors": save_file}[kind]
        write(prefixed("", edsr(1)), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    "kind", ["zip", "old", "safetensors", "sparse header", "text", "empty", "folder", "missing", "number", "no weights"]
)
def test_a_file_that_is_no_checkpoint_is_named(kind, tmp_path):
    target = edsr(1)
    before, path = weights(target), damaged(kind, tmp_path)
    with pytest.raises(ValueError, match="x.pth") as caught:
        networks.load_checkpoint(target, path)
    assert "\n" not in str(caught.value)
    assert all(map(torch.equal, before, weights(target)))


def changed(state: dict, key: str, tensor: torch.Tensor) -> dict:
    return state | {key: tensor}


FOREIGN = {
    "other scale": (
        lambda: edsr(2, scale=4).core.state_dict(),
        r"edsr at scale 2: 2 unknown \(upsample.2.weight; upsample.2.bias\); "
        r"it fits build\('edsr', scale=4, \*\*options\('edsr', 'tiny'\)\)",
    ),
    "other network": (
        lambda: ffanet(2).core.state_dict(),
        r"12 of 12 tensors missing \(conv_first.weight; conv_first.bias; body.0.conv1.weight; ...\), "
        r"\d+ unknown \(g1.*; ...\); it fits build\('ffanet', \*\*options\('ffanet', 'tiny'\)\)",
    ),
    "paper size": (
        lambda: networks.build("edsr", 2).core.state_dict(),
        r"60 unknown .*, 11 of another shape \(conv_first.weight is \(64, 3, 3, 3\), not \(16, 3, 3, 3\); .*"
        r"; it fits build\('edsr', scale=2\)$",
    ),
    "nothing known": (lambda: {"head.weight": torch.rand(3)}, "it fits no network this package knows"),
    "one missing": (
        lambda: {k: v for k, v in edsr(2).core.state_dict().items() if k != "conv_last.bias"},
        r"1 of 12 tensors missing \(conv_last.bias\)",
    ),
    "integers": (
        lambda: changed(edsr(2).core.state_dict(), "conv_last.bias", torch.zeros(3, dtype=torch.int64)),
        r"1 of another kind \(conv_last.bias is int64, not float32\)",
    ),
    "sparse": (
        lambda: changed(edsr(2).core.state_dict(), "conv_last.bias", torch.zeros(3).to_sparse()),
        r"1 of another kind \(conv_last.bias is float32 sparse_coo, not float32\)",
    ),
    "no data": (
        lambda: changed(edsr(2).core.state_dict(), "conv_last.bias", torch.zeros(3, device="meta")),
        r"1 of another kind \(conv_last.bias is float32 meta, not float32\)",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_weights_of_another_network_are_explained_and_not_loaded(case, tmp_path):
    make, message = FOREIGN[case]
    target = edsr(1)
    before = weights(target)
    torch.save({"params": make()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        networks.load_checkpoint(target, tmp_path / "x.pth")
    assert all(map(torch.equal, before, weights(target)))


@pytest.mark.slow
def test_every_network_at_every_scale_and_size_is_known(monkeypatch):
    monkeypatch.undo()
    calls = [call for call, _ in networks._known()]
    assert len(calls) == len(set(calls)) == 3 * sum(len(line.scales) for line in networks.NETWORKS.values())
    assert {name for name in networks.names() if any(f"{name!r}" in call for call in calls)} == set(networks.names())
