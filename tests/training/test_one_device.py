"""What a step, a look at the dose, a validation and a whole run ask of a GPU: all tensors of an operation on it."""

import pytest
import torch
from killing import work
from pretended_gpu import GPU, pretended_gpu
from trainers import advance, derain

from mclir_nb import networks
from mclir_nb.method import losses
from mclir_nb.training import dose, recipes, records
from mclir_nb.training.trainer import Trainer

VARIANTS = {
    "sampled in parts": dict(sampling="sampled", sampled_every=1, accumulate=2),
    "adaptive": dict(history_threshold=0.0),
    "another": dict(history_of="another"),
    "noise": dict(negatives="noise"),
    "noised": dict(noised_inputs=2),
    "half": dict(precision="float16", history_precision="bfloat16", features_precision="bfloat16"),
    "VGG": dict(features="vgg16", features_weights="random"),
}
VARIANTS |= {name: dict(objective=name) for name in losses.OBJECTIVES if name != "spn-smooth"}
VARIANTS["spn-smooth"] = dict(objective="spn-smooth", history_of="ema", history_ema_decay=0.9)


def test_a_tensor_that_was_left_on_the_cpu_is_found():
    with pretended_gpu():
        here, there = torch.ones(3, device=GPU), torch.ones(3)
        assert here.device == GPU and (2 * here[:2]).is_cuda and not there.is_cuda and there.to(here).is_cuda
        assert not here.cpu().is_cuda and torch.zeros_like(here).is_cuda and (here * torch.tensor(2.0)).is_cuda
        with pytest.raises(RuntimeError, match="two devices"):
            here + there
        with pytest.raises(TypeError, match="numpy"):
            here.numpy()


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_objectives_and_variants_stay_on_the_device(changes):
    strength = {} if changes.get("objective") == "plain" else {"lambda_neg": 1e-3}
    with pretended_gpu():
        made = advance(Trainer(derain(**strength | changes), GPU), 2, rows=True)
        assert next(made.model.parameters()).is_cuda and made.log.sums.is_cuda
        if strength:
            assert dose.measured(made, 1e-3, 1).update > 0
        made.validate()
        made.load_state_dict(made.state_dict())
        advance(made, 3)


@pytest.mark.parametrize("network", networks.names())
def test_networks_stay_on_the_device(network):
    task = networks.NETWORKS[network].task
    recipe = recipes.get("tiny", task, network=network, batch_size=1, lambda_neg=1e-3)
    with pretended_gpu():
        assert advance(Trainer(recipe, GPU), 1).log.sums.is_cuda


@pytest.mark.filterwarnings("ignore:'pin_memory':UserWarning")  # there is no memory of a GPU's to pin
def test_a_run_stays_on_the_device(tmp_path):
    with pretended_gpu():
        work(derain(dose=0.1, lambda_neg=None), tmp_path, device="cuda")
    run = records.Run(tmp_path)
    assert run.is_finished and run.provenance["device"] == "pretended GPU" and len(run.scores)
