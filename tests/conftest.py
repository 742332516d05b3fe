"""Prepare a pytest run: calm kernels, and the short versions of the notebooks for nbval (see trimming.py)."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import trimming

# Kernels inherit these. Two OpenMP threads on a busy two-core machine are twenty times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
# Kernels start in other folders and shall test this checkout, whatever else is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(trimming.ROOT), os.environ.get("PYTHONPATH")]))


FAST = {"method", "networks", "data", "evaluation", "views"}  # folders of tests that `-m fast` runs


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what a maintainer runs at every change."""
    for item in items:
        folder = item.path.relative_to(trimming.ROOT / "tests").parts[0]
        if folder in FAST and not any(item.get_closest_marker(name) for name in ("slow", "gpu")):
            item.add_marker("fast")


def pytest_configure(config):
    if not config.pluginmanager.hasplugin("nbval") or hasattr(config, "workerinput"):
        return  # switched off with -p no:nbval, or a worker whose controller has written the notebooks
    config.option.nbval_sanitize_with = str(trimming.ROOT / "tests" / "nbval_sanitize.cfg")
    config.out_dir = tempfile.mkdtemp(prefix="mclir-nb-tests-")
    os.environ["MCLIR_NB_RUNS"] = config.out_dir  # no run of the reader is found or touched
    try:
        trims = trimming.ROOT / "tests" / "trims.toml"
        trimming.write_all(trimming.ROOT / "notebooks", trims, trimming.TRIMMED, Path(config.out_dir))
    except trimming.TrimError as error:
        pytest_unconfigure(config)
        raise pytest.UsageError(str(error)) from error


def pytest_unconfigure(config):
    if hasattr(config, "out_dir"):
        shutil.rmtree(config.out_dir, ignore_errors=True)
