"""The live views of the package, each made of a small picture."""

import numpy as np
import pandas as pd
import torch

from mclir_nb.experiments import history_analysis
from mclir_nb.experiments.history_analysis import Pushes
from mclir_nb.training import recipes
from mclir_nb.training.frames import Frames
from mclir_nb.views import widgets

Y, X = np.mgrid[0:48, 0:64] / 64
GT = torch.tensor(np.stack([X, 0.5 + 0.4 * np.sin(24 * X * Y), Y])).float()
DEPTH = torch.tensor(1 - Y).float()


def pushes() -> Pushes:
    """Three moments of two histories, of which the first always helps."""
    gt, steps = GT.float(), [3, 10, 20]
    restored = torch.stack([gt * (0.7 + 0.1 * i) for i in range(3)])
    negatives = torch.stack([torch.stack([gt * (0.5 + 0.1 * i), gt * (0.75 + 0.1 * i)]) for i in range(3)])
    kept = Frames("x", gt * 0.4, gt, steps, restored, negatives, torch.ones(3, 2))
    push = torch.randn(restored.shape, generator=torch.Generator().manual_seed(0))
    rows = [
        dict(step=s, history=k, every=5 * k, age=s % (5 * k), progress=3 - k, gap=1.5) for s in steps for k in (1, 2)
    ]
    recipe = recipes.get("tiny", history_every=(5, 10), history_decay=(0.1, 0.1))
    return Pushes(recipe, kept, [1e-3] * 3, push, {history_analysis.NOISE: -push}, pd.DataFrame(rows))


MAKERS = {
    "before_after": lambda: widgets.before_after(GT * 0.5, GT),
    "degradation_explorer": lambda: widgets.degradation_explorer(GT, DEPTH),
    "training_scrubber": lambda: widgets.training_scrubber(pushes()),
    "spn_playground": lambda: widgets.spn_playground((0.0, 0.1), steps=60),
}
