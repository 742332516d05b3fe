"""Which negatives a step gets: all histories or a drawn one, synthetic restorers."""

import pytest
import torch
from torch import nn
from toys import photo

from mclir_nb.method.history import HistoryModels
from mclir_nb.method.negatives import Negatives, noised_copies, partly_restored
from mclir_nb.method.rivals import C2R_INDOOR


@pytest.fixture
def history():
    """Two histories that multiply by 1 and by 2."""
    made = HistoryModels(nn.Conv2d(3, 3, 1, groups=3, bias=False), (2, 1), (0.1, 0.1))
    for k, model in enumerate(made.models):
        model.weight.fill_(k + 1)
    return made


def test_all_histories_answer_unless_the_weight_is_zero(history):
    lq, negatives = photo(0), Negatives(history)
    for k, output in enumerate(negatives.outputs(lq, lq, step=1)):
        torch.testing.assert_close(output, (k + 1) * lq)
    assert negatives.outputs(lq, lq, step=1, weight=0.0) == []
    assert Negatives(None).outputs(lq, lq, step=1) == []


def test_noise_is_as_far_away_as_the_histories(history):
    """White: as far in each picture, the same for a seed and step, in no direction of the history."""
    lq, own = photo(0, (2, 3, 64, 64)), nn.Conv2d(3, 3, 1, groups=3, bias=False)
    nn.init.constant_(own.weight, 1.5)
    negatives = Negatives(history, noise_around=own)
    outputs = negatives.outputs(lq, lq, step=1)
    for k, output in enumerate(outputs):
        noise, away = output - 1.5 * lq, (k + 1) * lq - 1.5 * lq
        rms = [image.square().mean(dim=(1, 2, 3)).sqrt() for image in (noise, away)]
        torch.testing.assert_close(*rms, rtol=0.03, atol=0)
        assert torch.cosine_similarity(noise.flatten(), away.flatten(), dim=0).abs() < 0.03
        assert torch.equal(output, negatives.outputs(lq, lq, step=1)[k]) and not output.requires_grad
    for seed, step in ((0, 2), (1, 1)):
        other = Negatives(history, noise_around=own, seed=seed).outputs(lq, lq, step)[0]
        assert not torch.equal(outputs[0], other)


def test_one_history_is_drawn_from_seed_and_step(history):
    def drawn(seed):
        negatives = Negatives(history, seed=seed, draw=True)
        ones = torch.ones(1, 3, 1, 1)
        return [[int(n.max()) for n in negatives.outputs(ones, ones, step)] for step in range(1, 33)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert all(len(one) == 1 for one in drawn(0)) and 8 <= sum(one == [1] for one in drawn(0)) <= 24


def test_noised_inputs_are_drawn_as_often_as_histories(history):
    ones = torch.ones(1, 3, 4, 4)
    negatives = Negatives(history, draw=True, noised=2)
    outputs = [output for step in range(1, 65) for output in negatives.outputs(ones, ones, step)]
    from_histories = sum(torch.equal(output, output[0, 0, 0, 0] * ones) for output in outputs)
    assert len(outputs) == 64 and 20 <= from_histories <= 44  # two of four
    seeds_and_steps = ((0, 1), (0, 2), (1, 1))
    first, *others = (Negatives(history, noised=1, seed=k).outputs(ones, ones, step)[-1] for k, step in seeds_and_steps)
    assert not any(torch.equal(first, other) for other in others)


def test_noised_inputs_have_noise_of_1_to_30_of_255_and_every_other_one_is_grey():
    lq = torch.full((64, 3, 32, 32), 0.5)
    copies = noised_copies(lq, 2, torch.Generator().manual_seed(0))
    for copy in copies:
        sizes = 255 * (copy - lq).flatten(1).std(dim=1)
        assert 0.9 < sizes.min() < 4 and 27 < sizes.max() < 32 and sizes.mean() == pytest.approx(15.5, abs=3)
    red, green, _ = (255 * (copies[0] - lq)).unbind(dim=1)
    assert (red - green).abs().mean() > 5 and torch.equal(copies[1][:, 0], copies[1][:, 2])
    white, _ = noised_copies(torch.ones(1, 3, 8, 8), 2, torch.Generator().manual_seed(0))
    assert white.max() == 1


def test_noise_on_a_share_of_a_batch_is_that_of_the_whole(history):
    """On several processes, so that their number does not change the experiment."""
    lq, own = photo(0, (4, 3, 8, 8)), nn.Conv2d(3, 3, 1)
    for kind in (dict(noised=2), dict(noise_around=own)):
        whole = Negatives(history, **kind).outputs(lq, lq, step=1)
        share = Negatives(history, share=(1, 2), **kind).outputs(lq[2:], lq[2:], step=1)
        torch.testing.assert_close(share, [output[2:] for output in whole])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_histories_answer_in_their_precision(precision, history):
    (output, _) = Negatives(history, precision=precision).outputs(photo(0), photo(0), step=1)
    assert output.dtype == getattr(torch, precision)


def test_synthetic_restorers_have_the_psnr_they_are_named_after():
    gt = photo(0)
    lq = (gt + 0.3 * photo(1)).clamp(0, 1)
    outputs = Negatives(None, synthetic=True).outputs(lq, gt, step=1)
    for psnr, output in zip(C2R_INDOOR[2:], outputs[2:], strict=True):
        error = (output - gt).square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(-10 * error.log10(), torch.full((2,), psnr), rtol=0, atol=1e-3)
    assert torch.equal(partly_restored(lq, gt, 5.0), lq)  # lq is better than that already
    assert partly_restored(photo(2, (2, 3, 8, 8)), gt, 20.0).shape == gt.shape


def test_the_curriculum_is_saved_and_resumed():
    measured, synthetic = Negatives(None), Negatives(None, synthetic=True)
    assert measured.thresholds is None and synthetic.thresholds == C2R_INDOOR
    measured.thresholds = (21.5, 23.0)
    resumed = Negatives(None)
    resumed.load_state_dict(measured.state_dict())
    assert resumed.thresholds == (21.5, 23.0)
    synthetic.load_state_dict({"thresholds": None})
    assert synthetic.thresholds == C2R_INDOOR
