"""Ctrl-C, an interrupted kernel, a scheduler that asks to end: the run is saved and says how to go on."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

from mclir_nb.training import checkpoint, machine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
COMMAND = ["train", "--recipe", "tiny", "--device", "cpu", "--patch-size", "32", "--steps", "2000", "--save-every", "1"]
CODE = """
from mclir_nb.training import recipes, train
train.train(recipes.get("tiny", steps=2000, patch_size=32, save_every=1), OUT, device="cpu")
"""
# the loop of a run on a GPU, whose batches come from processes
LOADED = """
import multiprocessing, time
from mclir_nb.data.loading import load_in_order
from mclir_nb.training import machine
with machine.catch_signals() as stop:
    for number, _ in enumerate(load_in_order(str, range(10**9), 2)):
        if stop.is_set():
            break
        print(end="" if number else "began\\n", flush=True)
        time.sleep(0.5)  # the step
print("saved, and loaders left:", multiprocessing.active_children())
"""


def wait_for(file, process) -> None:
    end = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None and time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.05)


def answer(client, asked: str) -> dict:
    while True:
        reply = client.get_shell_msg(timeout=120)
        if reply["parent_header"]["msg_id"] == asked:
            return reply["content"]


def saved_step(folder) -> int:
    return checkpoint.read(folder / checkpoint.FILE)["run"]["step"]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_command_that_is_interrupted_saves_and_says_how_to_go_on(number, tmp_path):
    command = [sys.executable, "-m", "mclir_nb", *COMMAND, "--out", tmp_path / "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(tmp_path / "run" / checkpoint.FILE, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    step = saved_step(tmp_path / "run")
    assert f"after step {step} and saved" in errors
    assert not list((tmp_path / "run").glob("*.lock"))


def test_sigterm_to_all_processes_of_a_run_leaves_its_loaders_alone():
    """As torchrun, `timeout` and SLURM send it: a loader that is killed takes its training with it."""
    command = [sys.executable, "-c", LOADED]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "began\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.communicate(timeout=60)[0] == "saved, and loaders left: []\n"


def test_an_interrupted_kernel_saves_and_says_how_to_go_on(tmp_path):
    manager, client = start_new_kernel(env=dict(os.environ))
    try:
        asked = client.execute(CODE.replace("OUT", repr(str(tmp_path / "run"))), stop_on_error=False)
        wait_for(tmp_path / "run" / checkpoint.FILE, manager.provisioner.process)
        manager.interrupt_kernel()
        reply, step = answer(client, asked), saved_step(tmp_path / "run")
        assert reply["ename"] == "KeyboardInterrupt"
        assert f"after step {step} and saved" in reply["evalue"]
        assert answer(client, client.execute("1"))["status"] == "ok"  # the kernel lives
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_papermill_keeps_what_there_was_when_it_is_interrupted(tmp_path):
    cells = ["print('the first cell')", CODE.replace("OUT", repr(str(tmp_path / "run"))), "print('never')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    command = [sys.executable, "-W", "ignore", "-m", "papermill", tmp_path / "in.ipynb", tmp_path / "out.ipynb"]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as process:
        wait_for(tmp_path / "run" / checkpoint.FILE, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends Ctrl-C to all of a command's processes
        process.communicate(timeout=60)
    assert process.returncode != 0
    first, second, third = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-3:]
    assert first.outputs[0].text == "the first cell\n" and not third.outputs
    assert saved_step(tmp_path / "run") >= 1


def test_a_second_interrupt_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="at once"):
        with machine.catch_signals() as event:
            os.kill(os.getpid(), signal.SIGINT)
            assert event.wait(5)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_sigterm_does_not():
    """Under SLURM it comes from torchrun, which got one too: it must not keep the run from saving."""
    with machine.catch_signals() as event:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            assert event.wait(5)


def test_outside_the_main_thread_nothing_is_changed():
    def caught():
        with machine.catch_signals():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor() as threads:
        assert threads.submit(caught).result() == signal.getsignal(signal.SIGINT)
