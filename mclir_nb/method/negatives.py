"""What a step moves away from: the outputs of history models or, for C2R, of synthetic restorers.

By default every history model answers: the exact method. With `draw` one of them does, drawn anew in each step, which
is right on average and costs one.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from mclir_nb import stream
from mclir_nb.method import precision
from mclir_nb.method.history import HistoryModels
from mclir_nb.method.rivals import C2R_INDOOR, at_size


@dataclass(eq=False)
class Negatives:
    """The negatives of a run, step by step."""

    history: HistoryModels | None  # the history models; None for objectives without
    _: KW_ONLY
    seed: int = 0  # of the run; with the step it decides what is drawn
    draw: bool = False  # one negative per step in place of all
    precision: str = "float32"  # of the histories' forward passes, a name of `precision.NAMES`
    noised: int = 0  # further negatives, outputs of the first history for this many noised copies of lq (DCKD)
    synthetic: bool = False  # in place of histories, gt with a share of the degradation in it (see `partly_restored`)
    noise_around: nn.Module | None = None  # around whose output white noise as far away takes their place
    parts: int = 1  # into which a batch is cut for a history, as it is for the trained network
    share: tuple[int, int] = (0, 1)  # of every batch seen here: its number, and how many; noise is drawn for all

    def __post_init__(self) -> None:
        # PSNR in dB of what made each negative, for C2R's curriculum: published ones, or the histories' in validation;
        # None: all negatives count alike
        self.thresholds: tuple[float, ...] | None = C2R_INDOOR if self.synthetic else None

    def outputs(self, lq: Tensor, gt: Tensor, step: int, weight: float = 1.0) -> list[Tensor]:
        """The negatives of one step (counted from 1), without a graph.

        Args:
            lq, gt: (B, 3, h, w) and (B, 3, H, W), [0, 1].
            step: decides what is drawn.
            weight: what will multiply the term; where it is 0 no network is asked.

        Returns:
            (B, 3, H, W) tensors: one per history model or synthetic restorer, or the one that was drawn, or none.
        """
        if not weight:
            return []
        if self.synthetic:
            return [partly_restored(lq, gt, psnr) for psnr in C2R_INDOOR]
        if self.history is None:
            return []
        count = len(self.history.models)
        asked: list[tuple[Tensor, int]] = [(lq, k) for k in range(count)]
        asked += [(copy, 0) for copy in noised_copies(lq, self.noised, stream(self.seed, "noised", step), self.share)]
        if self.draw:
            drawn = int(torch.randint(len(asked), (), generator=stream(self.seed, "draw", step)))
            asked = asked[drawn : drawn + 1]
        with precision.autocast(self.precision, lq.device):
            outputs = [output for image, k in asked for output in self.history.negatives(image, k, self.parts)]
            if self.noise_around is None:
                return outputs
            with torch.no_grad():
                own, generator = self.noise_around(lq), stream(self.seed, "noise", step)
        return [noise_as_far(own, output, generator, self.share) for output in outputs]

    def state_dict(self) -> dict:
        """What a resumed run needs beside the histories."""
        return {"thresholds": self.thresholds}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        thresholds = state.get("thresholds") or (C2R_INDOOR if self.synthetic else None)
        self.thresholds = tuple(thresholds) if thresholds else None


def noise_as_far(image: Tensor, other: Tensor, generator: torch.Generator, share: tuple[int, int] = (0, 1)) -> Tensor:
    """`image` with white noise as strong as its distance from `other`, picture by picture. A control, OURS: what a
    push away from nothing in particular would be. Both (B, 3, H, W); `generator` on the CPU, whatever the device;
    `share` as in `Negatives`.
    """
    distance = (image - other).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return image + distance * _drawn(torch.randn, image.shape, generator, share).to(image)


def noised_copies(lq: Tensor, count: int, generator: torch.Generator, share: tuple[int, int] = (0, 1)) -> list[Tensor]:
    """`count` copies of lq with Gaussian noise of 1 to 30 of 255, every other one grey, clamped to [0, 1].

    DCKD's inputs for further negatives (arXiv:2412.08939). `generator` on the CPU, whatever the device; `share` as in
    `Negatives`.
    """
    copies = []
    for k in range(count):
        sigma = (1 + 29 * _drawn(torch.rand, (len(lq), 1, 1, 1), generator, share)) / 255
        noise = _drawn(torch.randn, (len(lq), 1 if k % 2 else 3, *lq.shape[2:]), generator, share)
        copies.append((lq + (sigma * noise).to(lq)).clamp(0, 1))
    return copies


def _drawn(draw: Callable, shape: Sequence[int], generator: torch.Generator, share: tuple[int, int]) -> Tensor:
    """What `draw` makes for a whole batch, of which those of this shape are one share."""
    number, count = share
    return draw((count * shape[0], *shape[1:]), generator=generator).chunk(count)[number]


def partly_restored(lq: Tensor, gt: Tensor, psnr: float) -> Tensor:
    """gt with a share of the degradation left in it: a synthetic restorer that reaches `psnr`.

    C2PNet uses the outputs of six published dehazing networks, whose PSNR these have; the images themselves are ours.

    Args:
        lq: (B, 3, h, w) degraded images, [0, 1]; a smaller one is enlarged bicubically first.
        gt: (B, 3, H, W) ground truth, [0, 1].
        psnr: dB of each result, (B, 3, H, W); an lq that is better than that is returned as it is.
    """
    lq = at_size(lq, gt)
    error = (lq - gt).square().mean(dim=(1, 2, 3), keepdim=True)
    share = (10 ** (-psnr / 10) / error.clamp(min=1e-12)).sqrt().clamp(max=1)
    return torch.lerp(gt, lq, share)
