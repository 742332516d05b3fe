"""Make the README's picture again: `python tools/hero.py`, about four minutes on two CPU cores the first time.

It trains the run that `04_history` trains at its default parameters, or takes it from runs/04_history.
"""

from mclir_nb import files, root
from mclir_nb.experiments import history_analysis
from mclir_nb.training import recipes, records, train
from mclir_nb.views import history_figures
from mclir_nb.views.style import render

FILE = "data/figures/history.jpg"


def make() -> bytes:
    """One photograph at three moments of a training, as JPEG."""
    recipe = recipes.get("demo", "derain", steps=400, seed=0, val_side=192)
    run = train.train(recipe, records.runs_dir() / "04_history/derain-demo-400-0" / recipe.objective)
    return render(history_figures.moments(history_analysis.pushes(run.dir)))


if __name__ == "__main__":
    files.write_file(root() / FILE, make())
    print(f"{FILE}: written")
