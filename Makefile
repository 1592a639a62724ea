# Two commands for a fresh machine: `make demo` and `make test`. Both make .venv where there is none.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= out

.PHONY: demo test mutants browser browser-test browser-bench hostile soak fuzz clean
.DELETE_ON_ERROR:

demo: .venv/installed-export
	$(BIN)/python -m export.build_engine checkpoints/edge.pth --out $(OUT)/edge.engine
	$(BIN)/python -m runtime examples/astronaut.jpg --engine $(OUT)/edge.onnx --save json,picture,obj,ply --out $(OUT)
	@echo "Look at $(OUT)/astronaut_faces.jpg; open $(OUT)/astronaut_0.obj in a mesh viewer."

test: .venv/installed-dev .venv/installed-triton
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

# Do the tests notice when the code is wrong? Each change of tests/mutants.toml must fail some; minutes.
mutants: .venv/installed-dev
	$(BIN)/python -m tests.mutants

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: expected Python 3.11 or newer, got `$(PYTHON) --version`; run: make PYTHON=python3.11 ..."; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "error: $(PYTHON) lacks the venv module; on Debian run: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/installed-base: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-export: .venv/bin/python pyproject.toml
	@echo "Installing PyTorch, ONNX and TensorRT-RTX into .venv: about 6 GB, with PyTorch's CUDA libraries. (Reconstruction"
	@echo "alone takes 370 MB and none of them: the README's first minute. Ctrl-C stops; the next run starts again.)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu,export]'
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu,export,train,dev]'
	@touch $@ .venv/installed-export

# Triton's server for the tests of serving/: where pip has none for this system or Python, they are skipped.
.venv/installed-triton: | .venv/installed-dev
	$(BIN)/python -m serving.local_server --install || echo "tests that need Triton's server will be skipped"
	@touch $@

# The page in the browser (examples/browser): Node 20 or newer.
PAGE := examples/browser
$(PAGE)/node_modules/.package-lock.json: $(PAGE)/package.json $(PAGE)/package-lock.json
	@command -v npm >/dev/null || { echo "error: expected Node.js with npm, found none; install Node 20 or newer"; exit 2; }
	npm ci --prefix $(PAGE) --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

browser: .venv/installed-base $(PAGE)/node_modules/.package-lock.json
	node $(PAGE)/build.mjs $(OUT)/browser
	@echo "Run: python3 -m http.server 8730 --directory $(OUT)/browser   and open http://localhost:8730/"

# Type-checks, lints, and opens the page in headless Chromium (CHROMIUM=… where it isn't /usr/bin/chromium); screenshots
# lie in $(OUT)/browser-test then.
browser-test: browser .venv/installed-dev
	npm run --prefix $(PAGE) --silent check
	PYTHONPATH=. $(BIN)/python $(PAGE)/test/expected.py $(OUT)/browser-test
	CLN_PAGE=$(OUT)/browser CLN_EXPECTED=$(OUT)/browser-test node --test --test-concurrency=1 --test-reporter=spec \
		$(PAGE)/test/winograd.test.mjs $(PAGE)/test/page.test.mjs

# The page's times beside the native runtime's.
browser-bench: browser
	test -f $(OUT)/browser-test/clip.mjpeg || PYTHONPATH=. $(BIN)/python $(PAGE)/test/expected.py $(OUT)/browser-test
	CLN_PAGE=$(OUT)/browser CLN_EXPECTED=$(OUT)/browser-test node $(PAGE)/test/bench.mjs

# COUNT damaged files and odd arrays at every reader, each in a process with limits; about an hour for 20,000.
COUNT ?= 20000
hostile: .venv/installed-dev
	$(BIN)/python -m tests.hostile --count $(COUNT) --out $(OUT)/hostile

# Photographs, videos, threads, engines opened and closed: memory, file handles and threads must stay level.
MINUTES ?= 60
soak: .venv/installed-dev
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --out $(OUT)/soak.png

# A minute for each of the C++ readers of files (libFuzzer; needs clang).
fuzz:
	cpp_bindings/fuzz/run.sh 60 build/fuzz

clean:
	rm -rf .venv $(OUT) build *.egg-info
