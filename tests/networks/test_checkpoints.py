"""Checkpoints: every published layout is read, nothing in a file runs, and what does not fit is explained."""

import argparse
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

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


def edsr(seed: int = 0, scale: int = 2, **overrides) -> networks.Restorer:
    torch.manual_seed(seed)
    return networks.build("edsr", scale, **(TINY | overrides))


def ffanet(seed: int = 0) -> networks.Restorer:
    torch.manual_seed(seed)
    return networks.build("ffanet", **networks.options("ffanet", "tiny"))


def prefixed(prefix: str, network: networks.Restorer) -> OrderedDict:
    return OrderedDict((prefix + k, v) for k, v in network.core.state_dict().items())


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.parameters(), b.parameters()))


def profiled(network: networks.Restorer) -> dict:
    """As thop leaves a state dict: two counts in every module."""
    state = prefixed("", network)
    modules = ["", *(f"{k.rpartition('.')[0]}." for k in state)]
    counts = {f"{m}{n}" for m in modules for n in ("total_ops", "total_params")}
    return state | dict.fromkeys(sorted(counts), torch.zeros(1, dtype=torch.float64))


def optimised(network: networks.Restorer) -> dict:
    """An optimiser's state: tensors of the same shapes under other names."""
    return {"state": {k: {"step": 3, "exp_avg": weight} for k, weight in enumerate(network.core.parameters())}}


def lightning(network: networks.Restorer) -> dict:
    """A module with a loss of its own, options and callbacks."""
    state = prefixed("model.", network) | {"loss.vgg.0.weight": torch.rand(4, 3, 3, 3), "metric.total": torch.tensor(1)}
    options = argparse.Namespace(lr=1e-4, folder=Path("somewhere"))
    return {"epoch": 3, "state_dict": state, "hyper_parameters": options, "optimizer_states": [optimised(edsr(7))]}


LAYOUTS = {
    "bare": lambda n: prefixed("", n),
    "IDT": lambda n: prefixed("module.", n),
    "DehazeFormer": lambda n: {"state_dict": prefixed("module.", n)},
    "BasicSR": lambda n: {"params": prefixed("", edsr(5)), "params_ema": prefixed("", n)},
    "PromptIR": lambda n: {"epoch": 3, "state_dict": prefixed("net.", n), "callbacks": {"best": {"k": 3}}},
    "compiled": lambda n: {"model": prefixed("module._orig_mod.", n)},
    "compiled blocks": lambda n: {k.replace("body.", "body._orig_mod."): v for k, v in prefixed("", n).items()},
    "whole Restorer": lambda n: n.state_dict(),
    "profiled": profiled,
    "averaged": lambda n: torch.optim.swa_utils.AveragedModel(n.core).state_dict(),
    "Lightning": lightning,
    "two names deep": lambda n: {
        "ema": {"module": prefixed("netG.", n), "updates": 3},
        "optimizer": optimised(edsr(7)),
    },
    "a list": lambda n: {"models": [prefixed("", n)], "scores": [1.0]},
    "GAN": lambda n: {"generator": prefixed("", n), "discriminator": {"0.weight": torch.rand(3, 3)}},
    "beside its average": lambda n: (
        prefixed("online_model.", edsr(5)) | prefixed("ema_model.", n) | {"step": torch.ones(1)}
    ),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(layout, zipped, tmp_path):
    source, target = edsr(1), edsr(2)
    torch.save(LAYOUTS[layout](source), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert not same(source, target)
    assert networks.load_checkpoint(target, tmp_path / "x.pth") is target
    assert same(source, target)


def test_what_is_left_out_is_said(tmp_path, capsys):
    for name, state in (("plain", lambda n: prefixed("", n)), ("profiled", profiled), ("lit", lightning)):
        torch.save(state(edsr(1)), tmp_path / f"{name}.pth")
        networks.load_checkpoint(edsr(2), tmp_path / f"{name}.pth")
    said = capsys.readouterr().out
    assert "plain.pth" not in said
    assert "profiled.pth" in said and "total_ops" in said
    assert "lit.pth" in said and "loss.vgg.0.weight" in said


@pytest.mark.parametrize("write", [torch.save, save_file])
def test_one_of_several_networks_in_a_file_is_chosen(write, tmp_path, capsys):
    path, target = tmp_path / "run.safetensors", edsr(9)
    parts = {"model/core.": edsr(1), "ema_model/core.": edsr(2), "history/0/core.": edsr(3)}
    if write is torch.save:
        parts = {"model.": edsr(1), "ema_model.": edsr(2), "history.0.": edsr(3)}
    write({k: v for prefix, n in parts.items() for k, v in prefixed(prefix, n).items()}, path)
    for name, network in zip(("model", "ema_model", list(parts)[2][:9]), parts.values(), strict=True):
        assert same(networks.load_checkpoint(target, path, name), network)
    assert "that fit" not in capsys.readouterr().out
    networks.load_checkpoint(target, path)
    assert "ema_model" in capsys.readouterr().out  # more than one fits, and that is said
    with pytest.raises(ValueError, match="'model.*'ema_model|'ema_model.*'model"):
        networks.load_checkpoint(target, path, "net_g")


def test_part_of_a_larger_network_is_not_taken_for_a_small_one(tmp_path):
    torch.save({"params": edsr(1, num_block=2).core.state_dict()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="body.1.conv1.weight"):
        networks.load_checkpoint(edsr(2), tmp_path / "x.pth")


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_ffanet_files_with_numbers_of_numpy_1_and_2_are_read(module, tmp_path):
    """As FFA-Net's training writes them: the old file format, DataParallel names, NumPy numbers."""
    source, target, path = ffanet(1), ffanet(2), tmp_path / "its_train_ffa_3_19.pk"
    scores = {"max_psnr": np.float64(30.5), "ssims": [np.float32(0.9)], "psnrs": np.array([1.0, 2.0])}
    torch.save(scores | {"model": prefixed("module.", source)}, path, _use_new_zipfile_serialization=False)
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


def half(write):
    """A writer of the first half of a checkpoint."""

    def cut_short(path):
        write(prefixed("", edsr(1)), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut_short


NO_CHECKPOINT = {  # what stands in its place, and a word of the sentence
    "zip": (half(torch.save), "damaged"),
    "old": (half(lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False)), "damaged"),
    "safetensors": (half(save_file), "damaged"),
    "sparse header": (lambda path: path.write_bytes(struct.pack("<Q", 2**40) + b"{"), "damaged"),
    "one byte": (lambda path: path.write_bytes(b"\x80"), "damaged"),
    "page": (lambda path: path.write_text("<html>Quota exceeded</html>"), "web page"),
    "Git LFS": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid"), "Git LFS"),
    "HDF5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5"),
    "empty": (lambda path: path.touch(), "empty"),
    "folder": (lambda path: path.mkdir(), "folder"),
    "missing": (lambda path: None, "does not exist"),
    "pipe": (os.mkfifo, "no regular file"),
    "number": (lambda path: torch.save(3, path), "int"),
    "pickled network": (lambda path: torch.save(edsr(1), path), "Restorer.*state_dict"),
    "no weights": (lambda path: torch.save({"step": 3, "params": {"lr": 0.1}}, path), "step"),
}


@pytest.mark.parametrize("kind", NO_CHECKPOINT)
def test_a_file_that_is_no_checkpoint_is_called_what_it_is(kind, tmp_path):
    make, word = NO_CHECKPOINT[kind]
    target, path = edsr(1), tmp_path / "x.pth"
    make(path)
    with pytest.raises(ValueError, match=f"x.pth .*{word}") as caught:
        networks.load_checkpoint(target, path)
    assert "\n" not in str(caught.value) and same(target, edsr(1))


def test_a_file_without_permission(tmp_path, monkeypatch):
    path, opened = tmp_path / "x.pth", Path.open
    torch.save(edsr(1).core.state_dict(), path)

    def deny(file, *arguments):
        if file == path:
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments)

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(ValueError, match="x.pth cannot be read .*Permission denied"):
        networks.load_checkpoint(edsr(1), path)


def test_a_home_folder_that_nobody_has_does_not_exist():
    with pytest.raises(ValueError, match="~no-such-user/x.pth does not exist"):
        networks.load_checkpoint(edsr(1), "~no-such-user/x.pth")


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("export", [False, True])
def test_a_program_is_called_a_program(export, tmp_path):
    core, lq, path = edsr(1).core.eval(), torch.rand(1, 3, 16, 16), tmp_path / "x.pt2"
    if export:
        torch.export.save(torch.export.export(core, (lq,)), path)
    else:
        torch.jit.trace(core, lq).save(path)
    with pytest.raises(ValueError, match="x.pt2 is a program.*state_dict"):
        networks.load_checkpoint(edsr(1), path)


def test_a_network_of_ones_own_that_needs_data_to_be_built_hides_no_explanation(tmp_path, monkeypatch):
    class Drawn(nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.largest = self.weight.max().item()

    monkeypatch.setitem(networks.NETWORKS, "mine", networks.own(Drawn))
    torch.save(edsr(2, scale=4).core.state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"build\('edsr', scale=4"):
        networks.load_checkpoint(edsr(1), tmp_path / "x.pth")
    table = networks.table().set_index("network")
    assert table.macs.notna().tolist() == [True, True, False] and table.loc["mine", "task"] == "own"


def with_bias(tensor: torch.Tensor) -> dict:
    return edsr(2).core.state_dict() | {"conv_last.bias": tensor}


FOREIGN = {  # what is saved, and what the sentence names
    "other scale": (
        lambda: edsr(2, scale=4).core.state_dict(),
        r"upsample.2.weight.*build\('edsr', scale=4, \*\*options\('edsr', 'tiny'\)\)",
    ),
    "other network": (
        lambda: prefixed("module.", ffanet(2)),
        r"12 of 12 .*conv_first.weight.*build\('ffanet', \*\*options\('ffanet', 'tiny'\)\)",
    ),
    "paper size": (
        lambda: networks.build("edsr", 2).core.state_dict(),
        r"conv_first.weight is \(64, 3, 3, 3\), not \(16, 3, 3, 3\).*build\('edsr', scale=2\)",
    ),
    "nothing known": (lambda: {"head.weight": torch.rand(3)}, "no network"),
    "one missing": (
        lambda: {k: v for k, v in edsr(2).core.state_dict().items() if k != "conv_last.bias"},
        r"1 of 12 .*conv_last.bias",
    ),
    "integers": (lambda: with_bias(torch.zeros(3, dtype=torch.int64)), "conv_last.bias is int64, not float32"),
    "sparse": (lambda: with_bias(torch.zeros(3).to_sparse()), "conv_last.bias is float32 sparse_coo"),
    "no data": (lambda: with_bias(torch.zeros(3, device="meta")), "conv_last.bias is float32 meta"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_weights_of_another_network_are_explained_and_not_loaded(case, tmp_path):
    make, message = FOREIGN[case]
    target = edsr(1)
    torch.save({"params": make()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        networks.load_checkpoint(target, tmp_path / "x.pth")
    assert same(target, edsr(1))
