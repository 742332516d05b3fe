"""Any size through one door: tiles that agree with the whole image, the self-ensemble, memory that stays bounded."""

import pytest
import torch
from torch import nn

from mclir_nb.evaluation import memory, tiles


class Local(nn.Module):
    """Four 3x3 convolutions, optionally enlarging: looks 4 pixels far."""

    def __init__(self, scale=1, width=6):
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.sizes = scale, []
        widths = (3, width, width, width, 3 * scale**2)
        layers = [nn.Conv2d(one, two, 3, padding=1) for one, two in zip(widths, widths[1:], strict=False)]
        self.layers = nn.Sequential(*layers, nn.PixelShuffle(scale))

    def forward(self, lq):
        self.sizes.append(tuple(lq.shape[2:]))
        return 0.5 + 0.2 * self.layers(lq - 0.5)


class Windows(nn.Module):
    """Averages 8x8 windows: only tiles that begin where windows do agree with the whole image."""

    def forward(self, lq):
        height, width = lq.shape[2:]
        means = nn.functional.avg_pool2d(nn.functional.pad(lq, (0, -width % 8, 0, -height % 8), "reflect"), 8)
        return nn.functional.interpolate(means, scale_factor=8)[:, :, :height, :width]


class Mean(nn.Module):
    """Adds the mean of all it sees."""

    def forward(self, lq):
        return lq * 0.5 + lq.mean((2, 3), keepdim=True) * 0.5


def photo(height, width, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def whole(network, lq):
    with torch.no_grad():
        return network(lq).clamp(0, 1)


@pytest.mark.parametrize(("network", "size"), [(Local(), (300, 500)), (Local(2), (260, 390)), (Windows(), (301, 437))])
def test_tiles_agree_with_the_whole_image(network, size):
    lq = photo(*size)
    assert (tiles.run(network, lq, tile=256) - whole(network, lq)).abs().max() < 1e-5


def test_a_network_that_looks_at_the_whole_image_is_approximated_without_a_seam():
    lq = photo(300, 500) * torch.linspace(0, 1, 500)
    difference = tiles.run(Mean(), lq, tile=256) - whole(Mean(), lq)
    assert 0.01 < difference.abs().max() < 0.3 and difference.diff(dim=3).abs().max() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (16, 16), (17, 250), (720, 1280)])
def test_images_below_a_tile_are_whole_and_the_smallest_are_extended(size):
    network = Local(2)
    output = tiles.run(network, photo(*size))
    assert output.shape == (1, 3, 2 * size[0], 2 * size[1]) and network.sizes == [tuple(max(s, 16) for s in size)]
    if min(size) >= 16:
        assert torch.equal(output, whole(network, photo(*size)))
    even = torch.full((1, 3, *size), 0.8)
    torch.testing.assert_close(tiles.run(Mean(), even), even)  # what a small one is extended by is no other colour


def test_the_side_of_a_tile_is_a_number_and_not_a_matter_of_free_memory():
    network, lq = Local(), photo(20, 1300)
    tiles.run(network, lq)
    assert len(network.sizes) == 2 == tiles.count(lq) and max(map(max, network.sizes)) == tiles.TILE


def test_tiles_bound_the_memory_that_a_picture_takes():
    network, lq = Local(width=32), photo(704, 704)
    peaks = [memory.peak(lambda t=t: tiles.run(network, lq, t), torch.device("cpu"))[1] for t in (256, 704)]
    assert peaks[0] < 0.35 * peaks[1]


def test_the_ensemble_is_the_mean_over_eight_views():
    network, lq = Local(2), photo(20, 30)
    views = []
    for turns in range(4):
        for flip in (False, True):
            back = torch.rot90(network(torch.rot90(lq.flip(3) if flip else lq, turns, (2, 3))), -turns, (2, 3))
            views.append(back.flip(3) if flip else back)
    wanted = torch.stack(views).mean(0).clamp(0, 1)
    assert torch.allclose(tiles.run(network, lq, ensemble=True), wanted, atol=1e-6)
    assert not torch.allclose(tiles.run(network, lq), wanted, atol=1e-3)
    lq = photo(20, 280)
    assert torch.allclose(*(tiles.run(network, lq, tile, ensemble=True) for tile in (256, 512)), atol=1e-5)


def test_no_pixel_is_brighter_than_white_or_darker_than_black():
    ends = torch.tensor([0.0, 1.0]).repeat(1, 3, 16, 8)
    network = nn.Conv2d(3, 3, 1, groups=3)
    nn.init.constant_(network.weight, 2.0)
    nn.init.constant_(network.bias, -0.5)
    assert torch.equal(tiles.run(network, ends), ends)


@pytest.mark.parametrize(("tile", "better"), [(100, "256"), (500, "512"), (0, "256")])
def test_an_impossible_tile_is_refused(tile, better):
    with pytest.raises(ValueError, match=better):
        tiles.run(Local(), photo(20, 20), tile=tile)


@pytest.mark.parametrize("mode", [True, False])
def test_damaged_weights_are_noticed_and_the_mode_is_put_back(mode):
    network = Local().train(mode)
    nn.init.constant_(network.layers[0].bias, float("nan"))
    with pytest.raises(ValueError, match="weights"):
        tiles.run(network, photo(20, 20))
    assert network.training == mode


def test_a_damaged_image_is_not_blamed_on_the_weights():
    with pytest.raises(ValueError, match="image"):
        tiles.run(Local(), photo(20, 20) / 0)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator")])
def test_out_of_memory_names_a_smaller_tile_if_there_is_one(error):
    class Greedy(nn.Module):
        def forward(self, lq):
            raise error

    for size, advice in (((400, 900), "tile=448"), ((300, 320), "tile=256"), ((256, 288), "at once; free some memory")):
        with pytest.raises(ValueError, match=advice):
            tiles.run(Greedy(), photo(*size))
