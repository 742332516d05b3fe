"""Networks: the official numbers and names, any image size, training, and bad input."""

import copy
import json
import re
import zlib

import numpy as np
import pytest
import torch
from golden import SHARED, load, needs_shared, part
from safetensors.torch import load_file, save_file

from mclir_nb import networks
from mclir_nb.networks import dehazeformer, edsr, ffanet, idt, nafnet, promptir, swinir

FIXTURES = {
    **{"ffanet": ffanet.FFANet, "idt": idt.IDT, "nafnet": nafnet.NAFNet, "promptir": promptir.PromptIR},
    **dict.fromkeys(("dehazeformer", "dehazeformer_conv", "dehazeformer_mixed"), dehazeformer.DehazeFormer),
    **dict.fromkeys(("swinir_light_x2", "swinir_light_x4", "swinir_x4"), swinir.SwinIR),
    **dict.fromkeys(("edsr_x2", "edsr_x4"), edsr.EDSR),
}
PAPER = {  # entry of state_dicts.json: name, scale, overrides
    "ffanet_3_19": ("ffanet", 1, {}),
    **{f"dehazeformer_{size}": (f"dehazeformer-{size}", 1, {}) for size in "tsbml"},
    "idt": ("idt", 1, {}),
    **{f"swinir_light_x{scale}": ("swinir-light", scale, {}) for scale in (2, 3, 4)},
    **{f"swinir_classical_x{x}_img{i}": ("swinir", x, {"img_size": i}) for x, i in ((2, 48), (4, 48), (4, 64))},
    **{f"edsr_baseline_x{scale}": ("edsr", scale, {}) for scale in (2, 3, 4)},
    "nafnet_gopro_width32": ("nafnet", 1, {}),
    "nafnet_gopro_width64": ("nafnet-64", 1, {}),
    "promptir": ("promptir", 1, {}),
}
UNUSED = {"promptir": r"core\.(chnl_reduce|reduce_noise_channel_)[123]\.weight"}  # in the official arithmetic as well
FAMILIES = {line.family: name for name, line in reversed(networks.NETWORKS.items())}  # one name per family
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, CUDA])]
EVERY = list(FAMILIES.values())


def small(name: str, **overrides) -> networks.Restorer:
    """A small member with every parameter away from zero, so that gates and norms matter."""
    torch.manual_seed(0)
    network = networks.build(name, networks.NETWORKS[name].scales[-1], **networks.options(name, "tiny") | overrides)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) + (0.5 if parameter.ndim == 1 else 0.0))
    return network


@pytest.fixture(params=EVERY)
def member(request) -> networks.Restorer:
    """A small member of each family."""
    return small(request.param)


def filler(core: torch.nn.Module, salt: str) -> dict[str, torch.Tensor]:
    """The weights of a fixture too large to hold them: the filler rule of golden/README.md, promptir's constants."""
    weights = {}
    for key, parameter in core.named_parameters():
        last = key.rpartition(".")[2]
        g = np.random.default_rng(zlib.crc32((salt + key).encode())).standard_normal(tuple(parameter.shape))
        if last == "temperature" or (last == "weight" and (g.ndim == 1 or re.search(r"(^|\.)norm\d*\.weight$", key))):
            g = 1 + 0.1 * g
        elif last in ("bias", "prompt_param"):
            g *= 0.05 if last == "bias" else 0.5
        else:
            g *= 0.7 / np.sqrt(np.prod(g.shape[1:]))
        weights[key] = torch.from_numpy(g.astype(np.float32))
    return weights


def golden_core(fixture: str, dtype: torch.dtype):
    """The core of a fixture with its weights, the fixture's tensors, and the tolerances for `dtype`."""
    about, tensors = load(fixture)
    core = FIXTURES[fixture](**about["constructor"])
    weights = part(tensors, "weights/") or filler(core, f"shared:{fixture}:")
    for key, start in part(tensors, "filler_probe/").items():
        assert torch.equal(weights[key].flatten()[: len(start)], start)
    for key, buffer in core.named_buffers():
        assert torch.equal(buffer, weights.get(key, buffer))  # before loading: it is built to the last bit
    core.load_state_dict(weights, strict=True)
    wide = dtype == torch.float64
    tolerance = {"atol": 1e-9, "rtol": 0.0} if wide else {"atol": about["recommended_atol"], "rtol": 1e-4}
    return core.eval().to(dtype), tensors, "_f64" if wide else "", tolerance


@needs_shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_core_computes_the_official_numbers(fixture, dtype):
    core, tensors, suffix, tolerance = golden_core(fixture, dtype)
    expected = part(tensors, f"output{suffix}/")
    assert expected
    for case, wanted in expected.items():
        lq = tensors[f"input/{case}"].to(dtype)
        if dtype == torch.float64:  # one of a batch is enough
            lq, wanted = lq[:1], wanted[:1]
        if case.endswith("test_script"):  # SwinIR's script mirrors 1 to 8 pixels, with the border pixel
            extra = [(0, 0), (0, 0), *((0, 8 - side % 8) for side in lq.shape[2:])]
            lq = torch.from_numpy(np.pad(lq.numpy(), extra, "symmetric"))
        with torch.no_grad():
            restored = core(lq)[..., : wanted.shape[-2], : wanted.shape[-1]]
        torch.testing.assert_close(restored, wanted, **tolerance)


@needs_shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_local_pooling_computes_the_official_numbers(dtype):
    core, tensors, suffix, tolerance = golden_core("nafnet", dtype)
    core.pool_locally(32)
    about, _ = load("nafnet")
    windows = {k: m.kernel for k, m in core.named_modules() if isinstance(m, nafnet.Pool)}
    assert windows == {k: tuple(v) for k, v in about["local_pooling_TLC"]["kernels_here"].items()}
    with torch.no_grad():
        restored = core(tensors["input/local_64x80_global_pooling"].to(dtype))
    torch.testing.assert_close(restored, tensors[f"local/output{suffix}"], **tolerance)


@needs_shared
def test_restore_normalises_hazy_images_as_the_official_loader():
    core, tensors, _, tolerance = golden_core("ffanet", torch.float32)
    for case, hazy in part(tensors, "hazy01/").items():
        with torch.no_grad():
            torch.testing.assert_close(ffanet.restore(core, hazy), tensors[f"output/{case}"], **tolerance)


@needs_shared
@pytest.mark.parametrize("entry", PAPER)
def test_paper_size_has_the_official_state_dict(entry):
    wanted = json.loads((SHARED / "golden" / "state_dicts.json").read_text())[entry]
    name, scale, overrides = PAPER[entry]
    with torch.device("meta"):
        core = networks.build(name, scale, **overrides).core
    listing = [[k, list(t.shape), str(t.dtype).removeprefix("torch.")] for k, t in core.state_dict().items()]
    assert listing == wanted["state_dict"]  # names, shapes, types and order
    assert sum(p.numel() for p in core.parameters()) == wanted["n_parameters"]


@pytest.mark.parametrize("size", [(16, 16), (17, 31)])
def test_any_size_is_restored_at_its_scale(member, size):
    with torch.no_grad():
        restored = member.eval()(torch.rand(2, 3, *size))
    assert restored.shape == (2, 3, size[0] * member.scale, size[1] * member.scale)
    assert torch.isfinite(restored).all()


@pytest.mark.parametrize(("name", "multiple"), [("dehazeformer-t", 4), ("promptir", 8), ("swinir", 8), ("idt", 64)])
def test_a_size_that_does_not_fit_is_reflected_right_and_below(name, multiple):
    network, lq = small(name).eval(), torch.rand(1, 3, 19, 24)
    padded = np.pad(lq.numpy(), ((0, 0), (0, 0), (0, -19 % multiple), (0, -24 % multiple)), "reflect")
    with torch.no_grad():
        whole, scale = network(torch.from_numpy(padded)), network.scale
        torch.testing.assert_close(network(lq), whole[..., : 19 * scale, : 24 * scale], atol=1e-6, rtol=1e-5)


def test_an_image_does_not_see_its_neighbours_in_the_batch(member):
    network, images = member.eval(), torch.rand(3, 3, 20, 24)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[1:2], network(images[1:2]), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_the_gradient_reaches_every_parameter(name):
    network = small(name, **({"img_size": 128} if name == "idt" else {}))  # one of 64 has a 1x1 grid of windows
    network(torch.rand(1, 3, 24, 24)).square().mean().backward()
    silent = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert [k for k in silent if not re.fullmatch(UNUSED.get(name, ""), k)] == []


def test_a_black_image_has_finite_gradients():
    core = promptir.PromptIR(**promptir.SIZES["tiny"])  # fresh: all features are 0, and so are the lengths of q and k
    core(torch.zeros(1, 3, 16, 16)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in core.parameters())


def test_bfloat16_autocast_stays_close_and_trains(member):
    lq = torch.rand(1, 3, 24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        restored = member(lq)
        restored.float().square().mean().backward()
    reference = member(lq).detach()
    assert (restored.float() - reference).abs().max() < 0.05 * reference.abs().max()
    assert all(torch.isfinite(p.grad).all() for p in member.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("idt", "promptir") else ()) for name in EVERY]
)
def test_a_network_compiles_without_graph_breaks(name):
    network, lq = small(name), torch.rand(1, 3, 24, 20)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(lq), network(lq))


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_computes_the_numbers_and_gradients_of_float64(member, device):
    network, lq = member.eval(), torch.rand(2, 3, 24, 40)
    results = []
    for dtype, where in ((torch.float64, "cpu"), (torch.float32, device)):
        network.to(where, dtype).zero_grad()
        restored = network(lq.to(where, dtype))
        restored.square().mean().backward()
        gradient = torch.cat([p.grad.flatten().double().cpu() for p in network.parameters() if p.grad is not None])
        results += [restored.detach().double().cpu(), gradient]
    (expected, slope, found, slope_found), tight = results, device == "cpu"
    assert (found - expected).abs().max() < (1e-4 if tight else 2e-2) * expected.abs().max()  # room for TF32
    assert torch.cosine_similarity(slope, slope_found, dim=0) > (0.99999 if tight else 0.999)


@pytest.mark.parametrize("name", networks.names())
def test_a_history_equal_to_the_model_gives_the_same_bits(name):
    network, side = small(name).eval(), 128 if name == "idt" else 48
    lq = torch.rand(2, 3, side, side).contiguous(memory_format=torch.channels_last)
    restored = network(lq)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(network(lq), restored)  # or the signs of l_neg would be those of rounding


def test_a_copy_is_equal_and_independent(member, tmp_path):
    network, lq = member.eval(), torch.rand(1, 3, 16, 16)
    twin = copy.deepcopy(network)
    again = networks.build(twin.name, twin.scale, **twin.options).eval()
    save_file(network.state_dict(), tmp_path / "x.safetensors")  # refuses tensors that share memory
    again.load_state_dict(load_file(tmp_path / "x.safetensors"))
    with torch.no_grad():
        before = network(lq)
        for parameter in network.parameters():
            parameter.zero_()
        assert torch.equal(twin(lq), before) and torch.equal(again(lq), before)
        assert not torch.equal(network(lq), before)


def test_the_table_counts_parameters_and_macs(monkeypatch):
    few = {name: networks.NETWORKS[name] for name in ("ffanet", "nafnet-64", "edsr")}
    monkeypatch.setattr(networks, "NETWORKS", few)
    table = networks.table().set_index("network")
    assert list(table.index) == list(few)
    # a 3x3 convolution of 64 channels at 256x256 pixels costs 9 * 64 * 64 * 65536 multiply-accumulates
    convolution = 9 * 64 * 64 * 256 * 256
    assert table.loc["ffanet", "macs"] == pytest.approx((3 * (2 * 19 + 1) + 1) * convolution, rel=0.02)
    assert table.loc["nafnet-64", "macs"] == pytest.approx(63.06e9, rel=1e-3)  # an independent count
    assert table.loc["edsr", "macs"] == pytest.approx(4.57e9 * (64 / 48) ** 2, rel=2e-3)


def test_a_fresh_block_of_nafnet_is_the_identity():
    features = torch.rand(1, 8, 8, 8)
    assert torch.equal(nafnet.Block(8)(features), features)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (torch.rand(3, 24, 24), r"\(3, 24, 24\)"),
        (torch.rand(1, 1, 24, 24), r"\(1, 1, 24, 24\)"),
        (torch.zeros(1, 3, 24, 24, dtype=torch.uint8), "uint8"),
        (torch.rand(1, 3, 15, 24), "15x24"),
        (torch.full((1, 3, 24, 24), torch.nan), "NaN"),
    ],
)
def test_a_wrong_image_is_refused(wrong, word):
    with pytest.raises(ValueError, match=word):
        small("ffanet")(wrong)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: networks.build("ffa-net"), "did you mean 'ffanet'"),
        (lambda: networks.build("edsr"), "scale=2 or 3 or 4"),
        (lambda: networks.build("ffanet", 2), "scale=1"),
        (lambda: networks.build("ffanet", True), "scale=1"),
        (lambda: networks.build("edsr", 2.0), "no scale 2.0"),
        (lambda: networks.build("edsr", "2"), "no scale '2'"),
        (lambda: networks.build("edsr", 2, num_feats=8), "did you mean 'num_feat'"),
        (lambda: networks.options("edsr", "huge"), "huge"),
        (lambda: small("idt").core(torch.rand(1, 3, 64, 65)), "64x65"),
        (lambda: small("promptir").core(torch.rand(1, 3, 20, 24)), "20 x 24"),
        (lambda: small("dehazeformer-t").core(torch.rand(1, 3, 8, 16)), "8x16"),
        (lambda: small("promptir", decoder=False)(torch.rand(1, 3, 16, 16)), "decoder"),
        (lambda: edsr.EDSR(upscale=5), "upscale"),
        (lambda: swinir.SwinIR(upscale=5, window_size=8), "upscale"),
    ],
)
def test_a_wrong_request_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_a_scale_may_be_a_whole_number_of_numpy():
    assert type(networks.build("edsr", np.int64(2), **networks.options("edsr", "tiny")).scale) is int


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("ffanet", {"gps": 2}, "gps"),
        ("ffanet", {"dim": 20}, "dim"),
        ("nafnet", {"dec_blk_nums": [1]}, "levels"),
        ("promptir", {"heads": [3, 2, 4, 8]}, "3 heads"),
        ("promptir", {"LayerNorm_type": "biasfree"}, "LayerNorm_type 'biasfree'"),
        ("idt", {"depths": [2, 2]}, "nine"),
        ("idt", {"depths": [1, 1, 1, 1, 1, 2, 2, 2, 2]}, "depths"),
        ("idt", {"img_size": 96}, "img_size"),
        ("idt", {"num_heads": [3] * 9}, "3 heads"),
        ("dehazeformer-t", {"depths": [1, 1, 1]}, "five"),
        ("dehazeformer-t", {"embed_dims": [8, 16, 24, 16, 12]}, "embed_dims"),
        ("dehazeformer-t", {"num_heads": [2, 5, 6, 1, 1]}, "5 heads"),
        ("dehazeformer-t", {"conv_type": [None] * 5}, "conv_type"),
        ("swinir", {"img_size": 20}, "img_size"),
        ("swinir", {"num_heads": [3]}, "embed_dim"),
        ("swinir", {"depths": [2, 2]}, "depths"),
        ("swinir", {"upsampler": "nearest+conv"}, "upsampler"),
        ("swinir", {"resi_connection": "3conv"}, "resi_connection"),
    ],
)
def test_options_that_cannot_be_built_are_named(name, options, word):
    with pytest.raises(ValueError, match=word):
        networks.build(name, networks.NETWORKS[name].scales[-1], **networks.options(name, "tiny") | options)


def test_a_built_network_outlives_its_line_in_the_table(monkeypatch):
    lq = torch.rand(1, 3, 16, 16)
    monkeypatch.setitem(networks.NETWORKS, "mine", networks.own(torch.nn.Identity))
    network = networks.build("mine")
    monkeypatch.setitem(networks.NETWORKS, "mine", networks.own(torch.nn.Identity, lambda core, lq: 2 * core(lq)))
    assert torch.equal(network(lq), lq)
    monkeypatch.delitem(networks.NETWORKS, "mine")
    assert torch.equal(network(lq), lq)
