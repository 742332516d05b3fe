"""A picture of any kind comes back as the same kind; files are written beside others and never over them."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mclir_nb import files, networks
from mclir_nb.__main__ import main
from mclir_nb.data import images
from mclir_nb.evaluation import evaluate, restore
from mclir_nb.training import records


class Same(nn.Module):
    """Gives back what it gets, enlarged by repetition."""

    def __init__(self, scale=1):
        super().__init__()
        self.scale = scale

    def forward(self, lq):
        return lq.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


BYTES = np.random.default_rng(0).integers(0, 256, (18, 20, 4), dtype=np.uint8)
WORDS = np.random.default_rng(1).integers(0, 65536, (18, 20, 4), dtype=np.uint16)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("values", [BYTES, WORDS, (BYTES / 255).astype(np.float32), BYTES / 255])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_arrays_come_back_as_they_were(values, channels, scale):
    array = values[:, :, 0] if channels is None else values[:, :, :channels]
    restored = restore.restore(Same(scale), array)
    assert restored.dtype == array.dtype and restored.shape == (18 * scale, 20 * scale, *array.shape[2:])
    colours = restored[::scale, ::scale][..., :3] if array.ndim == 3 else restored[::scale, ::scale]
    assert np.allclose(colours, array[..., :3] if array.ndim == 3 else array, atol=1e-6)
    if channels == 4 and scale == 1:
        assert np.allclose(restored, array, atol=1e-6)  # transparency too


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "I;16", "P", "CMYK"])
def test_pil_images_come_back_as_pil_images(mode):
    picture = Image.fromarray(WORDS[:, :, 0]) if mode == "I;16" else Image.fromarray(BYTES[:, :, :3]).convert(mode)
    restored = restore.restore(Same(), picture)
    assert restored.mode == {"P": "RGB", "CMYK": "RGB"}.get(mode, mode) and restored.size == (20, 18)
    wanted = picture.convert("RGB") if mode in ("P", "CMYK") else picture
    assert np.array_equal(np.asarray(restored), np.asarray(wanted))


def test_a_profile_comes_back_with_the_colours_that_it_describes():
    for mode, kept in (("RGB", True), ("L", True), ("CMYK", False)):
        picture = Image.fromarray(BYTES[:, :, :3]).convert(mode)
        picture.info["icc_profile"] = b"a profile"
        assert ("icc_profile" in restore.restore(Same(), picture).info) == kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.uint8])
@pytest.mark.parametrize("shape", [(3, 18, 20), (1, 3, 18, 20)])
def test_tensors_come_back_as_they_were(shape, dtype):
    image = (torch.rand(shape) * 255).to(torch.uint8) if dtype == torch.uint8 else torch.rand(shape).to(dtype)
    restored = restore.restore(Same(2), image)
    assert restored.dtype == dtype and restored.shape == (*shape[:-2], 36, 40)
    assert torch.equal(restored[..., ::2, ::2], image.float().to(dtype))
    (restored.float() * torch.ones((), requires_grad=True)).sum().backward()  # not an inference tensor


def test_a_tensor_of_bytes_is_rounded():
    class Brighter(Same):
        def forward(self, lq):
            return lq + 0.6 / 255

    assert (restore.restore(Brighter(), torch.full((3, 18, 20), 100, dtype=torch.uint8)) == 101).all()


@pytest.mark.parametrize("size", [(2, 9), (20, 33)])
def test_what_a_network_pads_shows_at_no_border(size):
    mean = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)  # darkens the border: zeros are in its mean
    nn.init.constant_(mean.weight, 1 / 9)
    grey = torch.full((3, *size), 0.5)
    torch.testing.assert_close(restore.restore(mean, grey), grey)


def test_the_margin_alone_cuts_no_picture():
    class Seeing(Same):
        def forward(self, lq):
            seen.append(tuple(lq.shape[2:]))
            return super().forward(lq)

    for height, wanted in ((256, [(288, 282)]), (257, [(256, 256), (256, 154), (161, 256), (161, 154)])):
        seen = []
        restore.restore(Seeing(), torch.rand(3, height, 250), tile=256)
        assert seen == wanted


def test_values_that_rounding_left_outside_are_taken_for_what_they_are():
    ramp = torch.linspace(-1e-5, 1 + 1e-5, 400).reshape(1, 20, 20).repeat(3, 1, 1)
    for image in (ramp, ramp.permute(1, 2, 0).numpy()):
        restored = torch.as_tensor(restore.restore(Same(), image))
        assert restored.min() == 0 and restored.max() == 1 and ramp.max() > 1


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("photo.jpg", "restore_file"),
        ([1, 2], "list"),
        (torch.rand(2, 3, 9, 9), "2, 3, 9, 9"),
        (torch.rand(1, 9, 9), "1, 9, 9"),
        (torch.zeros(3, 9, 9, dtype=torch.int64), "int64"),
        (torch.full((3, 9, 9), 255.0), "255"),
        (torch.full((3, 9, 9), 1.001), "1.001"),
        (np.zeros((9, 9, 5), np.uint8), "9, 9, 5"),
        (np.zeros((0, 9, 3), np.uint8), "0, 9, 3"),
        (np.zeros((9, 9), np.int32), "int32"),
        (np.full((9, 9), np.nan), "NaN"),
    ],
)
def test_what_is_not_a_picture_is_refused(image, reason):
    with pytest.raises(ValueError, match=reason):
        restore.restore(Same(), image)


def test_a_file_is_written_beside_the_original_and_nothing_is_overwritten(tmp_path):
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.jpg", quality=90)
    before = (tmp_path / "a.jpg").read_bytes()
    written = [restore.restore_file(Same(), tmp_path / "a.jpg").name for _ in range(3)]
    assert written == ["a_restored.png", "a_restored_2.png", "a_restored_3.png"]
    assert (tmp_path / "a.jpg").read_bytes() == before and len(list(tmp_path.iterdir())) == 4
    first, original = (images.read_image(tmp_path / name) for name in ("a_restored.png", "a.jpg"))
    assert torch.equal(first, original)


def test_files_keep_16_bits_transparency_greyness_and_profile(tmp_path):
    for layers, profile in ((WORDS, b"a profile" * 20), (WORDS[:, :, :1], None), (BYTES[:, :, :2], None)):
        (tmp_path / "a.png").write_bytes(images.encode_png(images.Picture(layers, profile)))
        back = images.read_picture(restore.restore_file(Same(), tmp_path / "a.png"))
        assert np.array_equal(back.layers, layers) and back.profile == profile


def test_exif_rotation_is_applied_and_the_place_left_out(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.png", exif=exif)
    with Image.open(restore.restore_file(Same(), tmp_path / "a.png")) as restored:
        assert restored.size == (18, 20) and not restored.getexif()
        assert np.array_equal(np.asarray(restored), np.rot90(BYTES[:, :, :3], -1))
    with Image.open(tmp_path / "a.png") as opened:  # the same by the other door
        assert np.array_equal(np.asarray(restore.restore(Same(), opened)), np.rot90(BYTES[:, :, :3], -1))


def test_a_name_or_a_folder_can_be_given(tmp_path):
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.png")
    (tmp_path / "there").mkdir()
    assert restore.restore_file(Same(), tmp_path / "a.png", tmp_path / "there").parent.name == "there"
    assert restore.restore_file(Same(), tmp_path / "a.png", tmp_path / "b.png").name == "b.png"
    for out in ("b.png", "b.jpg", "no/b.png"):  # there already, no PNG, no such folder
        with pytest.raises(ValueError, match=str(tmp_path)):
            restore.restore_file(Same(), tmp_path / "a.png", tmp_path / out)
    for path, out in (("~no-such-user/a.png", None), (tmp_path / "a.png", "~no-such-user/out")):
        with pytest.raises(ValueError, match="~no-such-user"):
            restore.restore_file(Same(), path, out)


ENDS = [(files, "write_file", OSError(28, "No space left on device")), (files, "write_file", KeyboardInterrupt())]
ENDS += [(images, "encode_png", KeyboardInterrupt())]


@pytest.mark.parametrize(("room", "name", "end"), ENDS)
def test_a_full_disk_or_an_interruption_leaves_no_empty_file(tmp_path, monkeypatch, room, name, end):
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.png")

    def ended(*_):
        raise end

    monkeypatch.setattr(room, name, ended)
    with pytest.raises(type(end)):
        restore.restore_file(Same(), tmp_path / "a.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_that_cannot_be_written_is_said_before_any_work(tmp_path, monkeypatch):
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.png")
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    for out in (None, tmp_path, tmp_path / "b.png"):
        with pytest.raises(ValueError, match=f"{tmp_path} may not be written"):
            restore.restore_file(None, tmp_path / "a.png", out)  # no network is asked for anything


def test_from_the_command_line_with_a_file_of_weights(tmp_path, capsys):
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.png")
    network = networks.build("edsr", 2)
    files.write_tensors(tmp_path / "w.safetensors", network.core.state_dict())
    command = ["restore", str(tmp_path / "a.png"), "--checkpoint", str(tmp_path / "w.safetensors")]
    assert main(command) == 1 and "network" in capsys.readouterr().err
    assert main([*command, "--network", "edsr", "--scale", "2", "--ensemble", "--device", "cpu"]) == 0
    assert f"written: {tmp_path / 'a_restored.png'}" in capsys.readouterr().out
    wanted = restore.restore(network, BYTES[:, :, :3], ensemble=True)
    assert np.array_equal(images.read_picture(tmp_path / "a_restored.png").colour, wanted)


def test_an_official_nafnet_restores_as_its_authors_score_it(tmp_path):
    Image.fromarray(np.tile(BYTES[:, :, :3], (2, 20, 1))).save(tmp_path / "a.png")  # 400 pixels wide
    network = networks.build("nafnet")
    for block in network.core.middle_blks:
        nn.init.constant_(block.beta, 1.0)
    files.write_tensors(tmp_path / "w.safetensors", network.core.state_dict())
    file = ["--checkpoint", str(tmp_path / "w.safetensors"), "--network", "nafnet", "--device", "cpu"]
    assert main(["restore", str(tmp_path / "a.png"), *file]) == 0
    picture, restored = (images.read_picture(tmp_path / name).colour for name in ("a.png", "a_restored.png"))
    assert not np.array_equal(restored, restore.restore(network, picture))
    assert np.array_equal(restored, restore.restore(evaluate.as_published(network), picture))


def test_a_file_for_super_resolution_is_taken_for_four_times_where_nothing_is_said(tmp_path):
    files.write_tensors(tmp_path / "w.safetensors", networks.build("edsr", 4).core.state_dict())
    assert records.open_checkpoint(tmp_path / "w.safetensors", "edsr")[0].scale == 4
