"""Toys that can be worked out on paper: constant pictures, features that are the picture, a network of one weight."""

import torch
from torch import nn


class Pixels(nn.Module):
    """Features that are the image itself."""

    def forward(self, image):
        return {"pixels": image}


class Scale(nn.Module):
    """restored = weight * lq."""

    def __init__(self, weight=0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, lq):
        return self.weight * lq


class Normed(nn.Sequential):
    """A network with running statistics."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))


def constant(value=0.0, size=4):
    return torch.full((1, 3, size, size), float(value))


def photo(seed, shape=(2, 3, 16, 16)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
