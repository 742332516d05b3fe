"""History models: frozen copies of the model's own past, whose outputs are the negatives of the SPN loss.

`every` and `decay` are two tuples read in pairs: history k is refreshed at every multiple of `every[k]` optimiser steps
by `history = decay[k] * history + (1 - decay[k]) * model`. The official 0.1 makes it almost a fresh copy (90 % new),
not a slow average; its mean age is about 0.6 `every`. Other kinds of history come from the same four arguments:

    exact snapshots      decay=(0.0,) * N
    one slow average     every=(1,), decay=(0.999,)
    never updated        every=(None,)
    a random network     every=(None,), start=1.0, fresh=...

Source: Aitical/MCLIR @ e42fb40, basicsr/models/image_restoration_ffanet_neg_model.py and sr_neg_multi_model.py. Differs
in: the intervals travel with their decays (the official code reverses one list and not the other), float buffers are
averaged too (official: parameters only), the first copies are exact by default (official: start=0.1) and the state can
be saved.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


class HistoryModels:
    """Frozen copies of `model` with their schedule.

    Args:
        model: the model being trained; copied, never changed.
        every: optimiser steps between two refreshes, one entry per history; None or 0 freezes that history.
        decay: weight in [0, 1] kept from the old copy at a refresh, one entry per history.
        start: share in [0, 1] of a fresh random network in each first copy,
            `history = start * fresh() + (1 - start) * model`; 0 is an exact copy, 0.1 official.
        fresh: function returning a newly initialised network like `model`; called once per history, in order.

    Attributes:
        models: the copies, in eval mode and without gradients.
        answering: what computes their outputs: the copies themselves, or compiled forms of them.
    """

    def __init__(
        self,
        model: nn.Module,
        every: Sequence[int | None] = (1000, 500, 200, 100),
        decay: Sequence[float] = (0.1,) * 4,
        start: float = 0.0,
        fresh: Callable[[], nn.Module] | None = None,
    ):
        self.every = tuple(int(e or 0) for e in every)
        self.decay = tuple(float(d) for d in decay)
        self.start, self.turn = float(start), 0  # turn: which history the adaptive rule refreshes next
        _check(self.every, self.decay, self.start, fresh)
        self.models: list[nn.Module] = []
        for _ in self.every:
            history = copy.deepcopy(model).requires_grad_(False).eval()
            if fresh and start > 0:
                device = next(model.parameters()).device
                _average_into(history, fresh().to(device), 0.0)
                _average_into(history, model, self.start)
            self.models.append(history)
        self.answering: Sequence[nn.Module] = self.models

    def negatives(self, lq: Tensor, only: int | None = None, parts: int = 1) -> list[Tensor]:
        """Outputs of the histories for `lq`, without a graph.

        Args:
            lq: (B, 3, H, W) degraded images, as given to the model.
            only: index of the single history to ask; the mean over a uniformly drawn index is the mean over all.
            parts: into which the batch is cut, as the model gets it: a history that equals it then gives equal bits.

        Returns:
            One (B, 3, scale * H, scale * W) tensor per history asked.
        """
        asked = self.answering if only is None else [self.answering[only]]
        with torch.no_grad():  # not inference_mode: its tensors cannot be saved for a backward pass
            return [torch.cat([history(part) for part in lq.chunk(parts)]) for history in asked]

    def first(self, count: int) -> "HistoryModels":
        """The first `count` histories with their schedule; the networks themselves, not copies."""
        part = copy.copy(self)
        part.models, part.every, part.decay = self.models[:count], self.every[:count], self.decay[:count]
        part.answering = self.answering[:count]
        return part

    def update(self, model: nn.Module, step: int) -> list[int]:
        """Refresh the histories that are due after `step` optimiser steps (1 or more), and return their indices.

        Call after `optimizer.step()`.
        """
        if step < 1:
            raise ValueError(f"step {step} is not a finished optimiser step; count from 1")
        due = [k for k, every in enumerate(self.every) if every and step % every == 0]
        for k in due:
            _average_into(self.models[k], model, self.decay[k])
        return due

    def adaptive_update(self, model: nn.Module, spread: float, threshold: float = 0.022) -> list[int]:
        """The authors' adaptive rule, in place of `update`: while the error spreads, refresh one history in turn.

        Call before `optimizer.step()`, as the official class does.

        Args:
            model: the model being trained.
            spread: `error_spread` of this step.
            threshold: spread above which a history is refreshed (the default is official).

        Returns:
            The index of the refreshed history in a list, or an empty list.

        Source:
            Aitical/MCLIR @ e42fb40, the Adaptive_DDP model class.
        """
        if not self.models or spread <= threshold:
            return []
        k, self.turn = self.turn, (self.turn + 1) % len(self.models)
        _average_into(self.models[k], model, 0.001)  # official: nearly an exact copy
        return [k]

    def distances(self, model: nn.Module) -> Tensor:
        """Relative distance of the weights, |history - model|_2 / |model|_2, one number per history, on the device.

        A history at distance 0 gives a negative without signal.
        """
        own = [p.detach() for p in model.parameters()]
        size = get_total_norm(own)
        gaps = [get_total_norm([h - p for h, p in zip(m.parameters(), own, strict=True)]) for m in self.models]
        return torch.stack(gaps) / size if gaps else size.new_zeros(0)

    def state_dict(self) -> dict:
        """Weights and buffers of every history, by its number; the adaptive rule has its `turn` beside them."""
        return nn.ModuleList(self.models).state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned. Raises: RuntimeError if it is of other histories."""
        nn.ModuleList(self.models).load_state_dict(state)


def error_spread(restored: Tensor, gt: Tensor) -> Tensor:
    """What the adaptive rule looks at: the spread of the error within an image, averaged over the batch.

    The unbiased standard deviation over C, H, W of 2 (restored - gt), both (B, C, H, W) in [0, 1]: a scalar without
    gradient.
    """
    return (2 * (restored.detach() - gt)).flatten(1).std(dim=1).mean()


@torch.no_grad()
def _average_into(history: nn.Module, model: nn.Module, decay: float) -> None:
    """history = decay * history + (1 - decay) * model for parameters and float buffers; copies integers."""
    old = (*history.parameters(), *history.buffers())
    new = (*model.parameters(), *model.buffers())
    for h, m in zip(old, new, strict=True):
        if decay > 0 and h.is_floating_point():
            h.mul_(decay).add_(m, alpha=1 - decay)  # the official order of operations
        else:  # 0 times a NaN would be a NaN
            h.copy_(m)


def _check(every: tuple, decay: tuple, start: float, fresh: Callable | None) -> None:
    """Refuse schedules that cannot be meant."""
    if len(every) != len(decay):
        raise ValueError(f"every has {len(every)} entries and decay {len(decay)}; give one pair per history model")
    if any(e < 0 for e in every):
        raise ValueError(f"every = {every} has a negative interval; use steps >= 1, or None for a frozen history")
    if any(not 0 <= d <= 1 for d in decay):
        raise ValueError(f"decay = {decay} leaves [0, 1]; it is the weight kept from the old copy (official 0.1)")
    if not 0 <= start <= 1 or (start > 0 and fresh is None):
        raise ValueError(f"start = {start} is no share in [0, 1] of a network that fresh= builds (official 0.1)")
