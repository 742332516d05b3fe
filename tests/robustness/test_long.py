"""Long runs: memory, open files and processes do not grow with the steps."""

import gc
import statistics

import psutil
import pytest

from mclir_nb.training import checkpoint, recipes, train


@pytest.mark.parametrize(
    ("steps", "allowed"), [(200, 12_000_000), pytest.param(5000, 8_000_000, marks=pytest.mark.slow)]
)
def test_memory_and_files_stay_flat(steps, allowed, tmp_path, monkeypatch):
    """Of so many small steps with logging, saving and validation, looked at after each 10."""
    process, real = psutil.Process(), train.Trainer.advance
    memory, files, threads = [], [], []

    def advance(self, *batch):
        real(self, *batch)
        if self.step % 10 == 0:
            gc.collect()
            memory.append(process.memory_info().rss)
            files.append(process.num_fds() if hasattr(process, "num_fds") else process.num_handles())
            threads.append(process.num_threads())

    monkeypatch.setattr(train.Trainer, "advance", advance)
    monkeypatch.setattr(train, "_finish", lambda *arguments: None)  # scoring is no part of the loop
    small = dict(scale=2, patch_size=32, batch_size=1, val_side=32, history_every=(20, 5), history_decay=(0.1, 0.1))
    often = dict(log_every=10, save_every=steps // 10, val_every=steps // 5)
    run = train.train(recipes.get("tiny", "sr", steps=steps, **small, **often), tmp_path, device="cpu", quiet=True)
    early, late = memory[len(memory) // 4 : len(memory) // 2], memory[-len(memory) // 4 :]
    growth = statistics.median(late) - statistics.median(early)
    assert growth < allowed, f"memory grew by {growth / 1e6:.1f} MB"
    assert max(files[len(files) // 4 :]) <= max(files[: len(files) // 4]) and threads[-1] <= threads[0]
    assert {file.name for file in tmp_path.glob("*checkpoint*")} == {checkpoint.FILE, checkpoint.PREVIOUS}
    assert len(run.log) == steps // 10
