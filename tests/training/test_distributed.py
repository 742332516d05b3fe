"""One recipe on two processes (gloo, CPU): the same weights as on one, written by one of them, resumable."""

import math
import os
import re
import signal
import socket
import string
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainers import CPU, before_step

from mclir_nb import files, root
from mclir_nb.__main__ import main
from mclir_nb.training import checkpoint, distributed, dose, recipes, records, train

FILES = ("model.safetensors", "ema.safetensors", "history.safetensors", "checkpoint.safetensors")
COMMAND = ["-m", "mclir_nb", "train", "--recipe", "tiny", "--task", "sr", "--scale", "2", "--device", "cpu"]
SMALL = dict(steps=6, batch_size=4, patch_size=32, log_every=3, val_every=3, save_every=3, history_every=(2, 1))


def recipe(**changes):
    return recipes.get("tiny", "sr", scale=2, **SMALL | changes)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def in_two(work, *arguments) -> None:
    """work(rank, *arguments) in two processes that a launcher might have started."""
    context = torch.multiprocessing.spawn(_as_rank, (free_port(), work, *arguments), nprocs=2, join=False)
    deadline = time.monotonic() + 240
    while not context.join(timeout=5):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the two processes wait for each other")


def _as_rank(rank: int, port: int, work, *arguments) -> None:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in own.items()})
    torch.set_num_threads(1)
    work(rank, *arguments)


def _in_each(rank: int, folder: Path) -> None:
    """A run at a stretch, one in parts, and one that is interrupted in the second process alone in step 4."""
    if rank == 1:
        files.write_file = _forbidden
    train.train(recipe(), folder / "whole", quiet=True)
    train.train(recipe(accumulate=2), folder / "parts", quiet=True)
    alone = files.read_json(folder / "alone.json")["lambda"]  # of sums over a whole batch, which round otherwise
    assert chosen_lambda() == pytest.approx(alone, rel=0.05)
    with before_step(4, lambda *_: rank == 1 and os.kill(os.getpid(), signal.SIGINT)):
        with pytest.raises(KeyboardInterrupt, match="after step 4 and saved"):
            train.train(recipe(), folder / "stopped", quiet=True)
    _refusals(rank, folder)
    torch.distributed.destroy_process_group()  # as a process does at its end that no error has made leave


def _refusals(rank: int, folder: Path) -> None:
    """What goes wrong in the first process is said in both; an odd batch is refused; each has a GPU of its own."""
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        train.train(recipe(seed=1), folder / "whole", quiet=True)
    with pytest.raises(ValueError, match="batch_size 3 .* 2 or 4"):
        train.train(recipe(batch_size=3), folder / "odd", quiet=True)
    with pytest.raises(RuntimeError, match="NoCopy: needs two words"):
        distributed.on_first_rank(_fails_uncopied)
    assert "cr" in distributed.coupling_note("cr") and not distributed.coupling_note("spn")
    assert distributed.rank_device("cuda") == f"cuda:{rank}" and distributed.rank_device("cpu") == "cpu"


class NoCopy(Exception):
    """An error that cannot be sent to another process: it is made anew there from its message alone."""

    def __init__(self, one, other):
        super().__init__(f"needs {one} {other}")


def _fails_uncopied():
    raise NoCopy("two", "words")


def _forbidden(path, content):
    raise AssertionError(f"the second process writes {path}")


def chosen_lambda() -> float:
    """The lambda of a dose."""
    asked = recipe(dose=0.1)
    return dose.lambda_for(asked, asked.dose, CPU, looks=2, quiet=True).lambda_neg


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of both, and the run of one process with the whole batch."""
    folder = tmp_path_factory.mktemp("processes")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train.train(recipe(), folder / "alone", quiet=True)
    files.write_json(folder / "alone.json", {"lambda": chosen_lambda()})
    torch.set_num_threads(threads)
    in_two(_in_each, folder)
    return folder


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("run", ["whole", "parts"])
def test_two_halves_of_a_batch_give_the_weights_of_the_whole_batch(runs, run, file):
    """Each half at once, or in two parts."""
    two, one = load_file(runs / run / file), load_file(runs / "alone" / file)
    assert two.keys() == one.keys()
    for name in one:  # an AdamW step is the learning rate, whatever the gradient: 6 steps move a weight by 0.02
        assert torch.allclose(two[name], one[name], rtol=1e-4, atol=1e-5), name


def test_what_is_logged_is_that_of_the_whole_batch(runs):
    two, one = records.Run(runs / "whole"), records.Run(runs / "alone")
    for column in ("l_rec", "l_neg", "r", "distance_0", "val_psnr", "val_psnr_ema"):
        assert two.log[column].tolist() == pytest.approx(one.log[column].tolist(), rel=1e-3), column
    assert two.scores["psnr_restored"].tolist() == pytest.approx(one.scores["psnr_restored"].tolist(), abs=1e-3)
    assert two.provenance["processes"] == 2 and one.provenance["processes"] == 1


def _killed(rank: int, folder: Path) -> None:
    """The run that was interrupted goes on, until both processes are killed a step after it."""

    def dies(*_):
        distributed.any_rank(True)  # both have come here
        os.kill(os.getpid(), signal.SIGKILL)

    with before_step(6, dies):
        train.train(recipe(), folder / "stopped", quiet=True)


def _again(rank: int, folder: Path) -> None:
    train.train(recipe(), folder / "stopped", quiet=True)


def test_two_processes_interrupted_and_killed_go_on_to_the_same_bits(runs):
    with pytest.raises(torch.multiprocessing.ProcessExitedException, match="SIGKILL"):
        in_two(_killed, runs)
    assert checkpoint.read(runs / "stopped" / checkpoint.FILE)["run"]["step"] == 4
    in_two(_again, runs)
    for file in FILES[:3]:  # the log sums up in another order
        whole, stopped = (load_file(runs / run / file) for run in ("whole", "stopped"))
        assert all(torch.equal(whole[name], stopped[name]) for name in whole), file


def _fails(rank: int, folder: Path, failing: int, outcomes) -> None:
    """A run in which one process alone meets an error in step 3; what each of them says."""

    def fails(*_):
        if rank == failing:
            raise ValueError("a picture is damaged")

    try:
        with before_step(3, fails):
            train.train(recipe(), folder / "run", quiet=True)
    except Exception as error:
        outcomes[rank] = str(error)
    os._exit(0)


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one_process_ends_all(failing, tmp_path):
    with torch.multiprocessing.Manager() as manager:
        outcomes, began = manager.dict(), time.monotonic()
        in_two(_fails, tmp_path, failing, outcomes)
        assert time.monotonic() - began < 120
        assert outcomes[failing] == "a picture is damaged" and outcomes[1 - failing]


def test_a_process_that_never_comes_is_not_waited_for_long(monkeypatch):
    own = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match="2 processes of WORLD_SIZE"):
        distributed.init_process_group(timedelta(seconds=1))


def test_one_process_needs_nothing(monkeypatch):
    assert distributed.coupling_note("cr") == "" and distributed.batch_share(3) == range(3)
    monkeypatch.setattr(distributed, "world_size", lambda: 8)
    with pytest.raises(ValueError, match="batch_size 4 .* such as 8\\.$"):
        distributed.batch_share(4)
    monkeypatch.undo()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="RANK, MASTER_ADDR, MASTER_PORT"):
        distributed.init_process_group()


def printed_lines() -> list[tuple[int, list[str]]]:
    """The `mclir_nb train` lines of README and docs: on how many processes, and the words after `train`."""
    found = []
    for page in (root() / "README.md", *sorted((root() / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        variables = dict(re.findall(r'^(\w+)="(.*)"$', text, re.MULTILINE)) | {"seed": "0"}
        text = string.Template(text).safe_substitute(variables)
        for launch, words in re.findall(r"([^`\n]*)-m mclir_nb train\b([^`\n#&]*)", text):
            counts = re.findall(r"--(?:nnodes|nproc-per-node|num_processes) (\d+)", launch)
            found.append((math.prod(map(int, counts)), words.split()))
    return found


def test_the_lines_of_the_pages_can_work_as_printed(monkeypatch):
    """Weights for features that come without, and a batch that their processes can share."""
    asked: list = []
    monkeypatch.setattr(train, "train", lambda recipe, *_, **__: asked.append(recipe) or records.Run(Path("none")))
    lines = [(count, words) for count, words in printed_lines() if words and "--continue" not in words]
    assert {count for count, _ in lines} >= {1, 4, 8}
    for count, words in lines:
        main(["train", *words])  # fails to print the scores of a run that was not trained
        recipe = asked.pop()
        assert recipe.features == "lite0" or recipe.features_weights is not None, words
        assert recipe.batch_size % count == 0, words


def test_accelerate_launches_the_command(runs, tmp_path):
    pytest.importorskip("accelerate", reason="needs accelerate: pip install 'mclir-nb[many]'")
    out, launcher = tmp_path / "run", ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    fields = ["--history-every", "2", "1"]
    for name, value in SMALL.items():
        fields += [] if name == "history_every" else [f"--{name.replace('_', '-')}", str(value)]
    command = [sys.executable, *launcher, "--main_process_port", str(free_port()), *COMMAND, "--out", str(out), *fields]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # as in `runs`: another number of threads rounds differently
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written to") == 1
    assert (out / FILES[0]).read_bytes() == (runs / "whole" / FILES[0]).read_bytes()
