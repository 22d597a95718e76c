# make train    make an environment, train the default model
# make test     the same environment and the test tools; run the tests
# make kills    kill runs twenty times at random moments; all must come to the same end
# make slow     the tests that `make test` leaves out: more cases, and the longest (pairs of processes
#               killed twenty times are among them)
# make golden   compute anew what tests/golden holds runs to, for a change that is meant
# make recording OUT=FILE.json  record what the commands do, to compare by `python -m tests.recording
#               --compare`: for changes that are meant to change nothing
# make faults   the fault matrix in full: kill, damage and fill up runs, thousands of cases
# make kernels  build the extra of compiled kernels (needs a C++ compiler) and compare it with XLA
# make trackers  install wandb (75 MB) in the environment; read back what it and TensorBoard hold
# make parity   an environment on Python 3.11 with PyTorch and transformers; compare with their numbers
# make aot      an environment with compilers for TPUs and GPUs (1.2 GB); compile training loops for
#               devices that are not there, and check them (ARGS="--only 'tiny-*' --minutes 10")
# make pages    open the pages in headless Chromium; skipped aloud where there is none
# make lint     style, formatting, types, layers, structure and wording
# make reproduce  measure every published figure this hardware can (a CPU: under 40 minutes)
# make results  write the numbers in benchmarks/results/ into README.md, docs/ and configs/
# make learn    run the blocks of docs/learn/; write what they print, and their figures
# make docs     build the documentation into site/ (warnings are errors)
# make gpu-bench  on a machine with a GPU: its tests, benchmarks and reproductions; the results in
#               $$OUT or runs/gpu-bench (ARGS="--minutes 8" where it is lent for minutes)
# make clean    remove the environments and what the tools left (never runs/)
#
# PYTHON=... takes a certain Python, VENV=... puts the environment elsewhere.

VENV = .venv
PYTHON =
TORCH_VENV = .venv-torch
AOT_VENV = .venv-aot
TORCH = torch==2.13.0
# Its own requirements are for plots that no test makes.
MUP = mup==1.0.0
# Whose GPT-2 the exported one is compared with (163 MB with what it needs beside PyTorch).
TRANSFORMERS = transformers==5.24.0
# The newest that really runs, unless one is given.
FIND = if [ -n "$(PYTHON)" ]; then echo "$(PYTHON)"; else sh .ci/newest-python; fi
RUN = "$(VENV)/bin/python"
PIP = $(RUN) -m pip --disable-pip-version-check install --quiet
FAILED = { echo "error: the installation failed; another Python may work: make PYTHON=python3.12" >&2; exit 1; }

FAULTS_OUT =
# Of the slow tests: .ci/run leaves out the longest.
SLOW = slow

.PHONY: train test slow golden recording kills faults kernels parity trackers aot pages lint reproduce \
	results learn docs gpu-bench clean

train: $(VENV)/.run
	$(RUN) -m charjax.train

# A file's tests in one process: what they compile and what they share is made once.
test: $(VENV)/.dev
	$(RUN) -m pytest -n 2 --dist loadfile

slow: $(VENV)/.dev
	$(RUN) -m pytest -n 2 -m "$(SLOW)"

# Not to make a test pass: see tests/golden/test_golden.py.
golden: $(VENV)/.dev
	$(RUN) -m tests.golden

recording: $(VENV)/.dev
	$(RUN) -m tests.recording "$(OUT)"

# Four families, five runs, each killed four times.
kills: $(VENV)/.dev
	$(RUN) -m pytest -n 2 tests/faults/test_killed.py -k at_any_moment --faults 5

faults: $(VENV)/.dev
	$(RUN) -m pytest -n 2 tests/faults --faults full $(if $(FAULTS_OUT),--out "$(FAULTS_OUT)")

# Without isolation it is built against the JAX that is there, and none is downloaded for it.
kernels: $(VENV)/.dev
	$(PIP) "setuptools>=77"
	$(PIP) --no-build-isolation ./kernels
	$(RUN) -m pytest -rs tests/training/test_ensemble_kernel.py tests/generation/test_kernel_decoder.py \
		tests/ops/test_compiled.py
	CHARJAX_KERNELS_ISA=avx2 $(RUN) -m pytest -rs tests/ops/test_compiled.py

# PyTorch goes into an environment of its own, and nowhere else.
parity:
	@python=`if [ -n "$(PYTHON)" ]; then echo "$(PYTHON)"; else sh .ci/newest-python 3.11; fi` && \
		$(MAKE) --no-print-directory VENV=$(TORCH_VENV) PYTHON="$$python" $(TORCH_VENV)/.torch
	"$(TORCH_VENV)/bin/python" -m pytest -n 2 tests/parity

# With wandb the tests in tests/tracking leave nothing out.
trackers: $(VENV)/.trackers
	$(RUN) -m pytest -n 2 -m "slow or not slow" tests/tracking

# The compilers go into an environment of their own: where they are installed, JAX looks for their
# devices whenever it starts. Rows that benchmarks/results/aot.json has are not compiled again.
aot:
	@$(MAKE) --no-print-directory VENV=$(AOT_VENV) $(AOT_VENV)/.aot
	"$(AOT_VENV)/bin/python" -m pytest tests/aot
	"$(AOT_VENV)/bin/python" -m benchmarks.aot $(ARGS)

# -rs: what is skipped, and why.
pages: $(VENV)/.pages
	$(RUN) -m pytest tests/browser -m "" -rs

lint: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(RUN) -m pytest tests/test_house.py tests/test_language.py

reproduce: $(VENV)/.run
	$(RUN) -m charjax.reproduce

results: $(VENV)/.run
	$(RUN) -m benchmarks.render

learn: $(VENV)/.run
	$(RUN) -m benchmarks.pages $(ARGS)

# Warnings are errors. What a page loads must be in site/ too.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@! grep -rlE '(src|<link[^>]*href)="https?:' --include=*.html site || \
		{ echo "error: these pages load something from a network" >&2; exit 1; }
	@echo "open site/index.html"

# With whatever environment the machine has JAX for its GPU in: PYTHON=..., else the newest python.
gpu-bench:
	@python="$(PYTHON)"; if [ -z "$$python" ]; then \
		if [ -x "$(VENV)/bin/python" ]; then python="$(VENV)/bin/python"; else python=python3; fi; fi; \
		"$$python" -m benchmarks.gpu $(ARGS)

clean:
	rm -rf .venv .venv-* build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that was not finished is made again.
$(VENV)/.made:
	@python=`$(FIND)` && echo "making $(VENV) with $$python" && "$$python" -m venv --clear "$(VENV)"
	@touch "$@"

$(VENV)/.run: pyproject.toml | $(VENV)/.made
	@echo "installing charjax in $(VENV)"
	@$(PIP) --editable . || $(FAILED)
	@touch "$@"

# The test tools come with what a run needs.
$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	@echo "installing charjax and its test tools in $(VENV)"
	@$(PIP) --editable ".[dev]" || $(FAILED)
	@touch "$(VENV)/.run" "$@"

$(VENV)/.trackers: $(VENV)/.dev
	@echo "installing wandb in $(VENV)"
	@$(PIP) --editable ".[dev,wandb]" || $(FAILED)
	@touch "$@"

$(VENV)/.docs: pyproject.toml | $(VENV)/.made
	@echo "installing charjax and the documentation tools in $(VENV)"
	@$(PIP) --editable ".[docs]" || $(FAILED)
	@touch "$(VENV)/.run" "$@"

# Playwright drives a browser of the system; it downloads none.
$(VENV)/.pages: $(VENV)/.dev
	@echo "installing the driver of a browser in $(VENV)"
	@$(PIP) --editable ".[dev,pages]" || $(FAILED)
	@touch "$@"

$(VENV)/.aot: $(VENV)/.dev
	@echo "installing the compilers for TPUs and GPUs (1.2 GB)"
	@$(PIP) --editable ".[dev,aot]" || $(FAILED)
	@touch "$@"

$(VENV)/.torch: $(VENV)/.dev
	@echo "installing $(TORCH) and $(TRANSFORMERS) in $(VENV)"
	@$(PIP) "$(TORCH)" || $(FAILED)
	@$(PIP) --no-deps "$(MUP)" || echo "note: $(MUP) is not installed; its tests are skipped" >&2
	@$(PIP) "$(TRANSFORMERS)" || echo "note: $(TRANSFORMERS) is not installed; its tests are skipped" >&2
	@touch "$@"
