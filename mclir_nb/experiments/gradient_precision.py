"""How much of the SPN gradient survives lower precision: the gradient of l_neg beside the same in float64.

Late in training the histories' outputs differ from the model's by little more than rounding. An L1 distance passes on
only the signs of the differences, so a wrong sign is a wrong gradient. `survey` measures it for a model and its
histories as they stand; `while_training` trains a recipe and surveys it at several steps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb.method import distances, precision
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.train import Trainer

# precision of the history models, of the feature network
ARMS = {
    "float32": ("float32", "float32"),
    "bf16 histories": ("bfloat16", "float32"),
    "bf16 features": ("float32", "bfloat16"),
    "bf16 both": ("bfloat16", "bfloat16"),
    "fp16 histories": ("float16", "float32"),
    "fp16 both": ("float16", "float16"),
}


def gradient(restored: Tensor, negatives: Sequence[Tensor], features: nn.Module) -> tuple[Tensor, Tensor]:
    """l_neg of SPN and its gradient with respect to `restored`, in the precision in force."""
    restored = restored.detach().requires_grad_()
    distance = distances.feature_distance(restored, negatives, features)
    return distance.detach(), torch.autograd.grad(distance, restored)[0]


@precision.full_float32()
def survey(model: nn.Module, histories: Sequence[nn.Module], lq: Tensor, features: nn.Module) -> pd.DataFrame:
    """The gradient of l_neg in each of `ARMS` beside float64; the model's own output is float32 in all of them.

    Args:
        model, histories: float32 networks, as in training.
        lq: (B, 3, H, W), a few patches.
        features: the feature network of the loss.
    Returns: per arm: arm, cosine (with the float64 gradient), l_neg (relative to float64), signal (mean over the
        histories, see `precision.signal`), and distance_K, mean |restored - negative K| in float64.
    """
    with torch.no_grad():
        restored = model(lq)
        outputs = {}
        for name in {p for pair in ARMS.values() for p in pair}:
            with precision.autocast(name, lq.device):
                outputs[name] = [history(lq).float() for history in histories]
        exact = copy.deepcopy(model).double()(lq.double())
        exact_negatives = [copy.deepcopy(history).double()(lq.double()) for history in histories]
    true_value, true_gradient = gradient(exact, exact_negatives, copy.deepcopy(features).double())
    rows = []
    for arm, (of_histories, of_features) in ARMS.items():
        with precision.autocast(of_features, lq.device):
            value, found = gradient(restored, outputs[of_histories], features)
        coarsest = max(precision.ROUNDING[of_histories], precision.ROUNDING[of_features])
        above = precision.signal(restored, outputs[of_histories], features, coarsest)
        rows.append(
            {
                "arm": arm,
                "cosine": float(F.cosine_similarity(found.double().flatten(), true_gradient.flatten(), dim=0)),
                "l_neg": float(value / true_value),
                "signal": float(above.mean()),
            }
        )
    gaps = {f"distance_{k}": float((exact - n).abs().mean()) for k, n in enumerate(exact_negatives)}
    return pd.DataFrame(rows).assign(**gaps)


def while_training(recipe: Recipe, looks: Sequence[int], device: str = "cpu") -> pd.DataFrame:
    """Train a recipe with SPN, writing nothing, and survey it after each step in `looks`.

    Returns: the rows of `survey`, with a column step in front.
    """
    trainer = Trainer(recipe.replace(objective="spn"), torch.device(device))
    _, lq, _ = trainer.patches.batch(recipe.steps + 1)  # patches that are not trained on
    tables = []
    for batch in trainer.patches.batches(1, max(looks)):
        trainer.advance(*batch)
        if trainer.step in looks:
            trainer.model.eval()
            table = survey(trainer.model, trainer.history.models, lq.to(trainer.device), trainer.features)
            trainer.model.train()
            table.insert(0, "step", trainer.step)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)
