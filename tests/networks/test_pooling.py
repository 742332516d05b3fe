"""Channel means and their gradient."""

import torch

from mclir_nb.networks.pooling import channel_means


def test_means_and_gradients_are_those_of_mean():
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    assert torch.equal(channel_means(x), x.mean((2, 3), keepdim=True))
    assert torch.autograd.gradcheck(channel_means, x)
    assert torch.autograd.gradgradcheck(channel_means, x)


def test_the_gradient_holds_one_value_per_channel():
    x = torch.rand(2, 3, 40, 50).requires_grad_()
    (gradient,) = torch.autograd.grad(channel_means(x).sum(), x)
    assert gradient.shape == x.shape
    assert gradient.untyped_storage().nbytes() == 4 * 2 * 3
