"""Long runs: memory, open files and processes do not grow with the steps."""

import gc
import statistics

import psutil
import pytest

from mclir_nb.training import checkpoint, recipes, train


def watched_run(folder, monkeypatch, steps: int) -> tuple[list[int], list[int], list[int]]:
    """Train so many small steps with logging, saving and validation. Returns: memory, files, threads after each 10."""
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
    recipe = recipes.get("tiny", "sr", steps=steps, **small, **often)
    train.train(recipe, folder, device="cpu", quiet=True)
    return memory, files, threads


def check_flat(memory: list[int], files: list[int], threads: list[int], allowed: int) -> None:
    early, late = memory[len(memory) // 4 : len(memory) // 2], memory[-len(memory) // 4 :]
    growth = statistics.median(late) - statistics.median(early)
    assert growth < allowed, f"memory grew by {growth / 1e6:.1f} MB"
    assert max(files[len(files) // 4 :]) <= max(files[: len(files) // 4]) and threads[-1] <= threads[0]


def test_memory_and_files_stay_flat(tmp_path, monkeypatch):
    check_flat(*watched_run(tmp_path, monkeypatch, 200), allowed=12_000_000)
    assert {file.name for file in tmp_path.glob("*checkpoint*")} == {checkpoint.FILE, checkpoint.PREVIOUS}


@pytest.mark.slow
def test_memory_and_files_stay_flat_over_five_thousand_steps(tmp_path, monkeypatch):
    check_flat(*watched_run(tmp_path, monkeypatch, 5000), allowed=8_000_000)
    assert len(train.records.Run(tmp_path).log) == 500
