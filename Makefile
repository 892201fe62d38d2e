# make demo    base install in .venv (no torch), a synthetic cohort indexed and searched
# make test    full install in .venv-dev, linters, types and all tests
# make check   linters, format and types
# make quick   every test that is not slow
# make bench   the figures of docs/reference/benchmarks.md
# make soak    ten minutes of kills, rotted bits, damaged files and parallel searches: docs/reference/security.md
# make results   the figures of docs/reference/cxr-1.md and results.md
# make transfer  the table of docs/how-to/transfer.md
# make docs    the pages of docs/ as a site in site/, command reference included
# make ablation  what each part of the method is worth: docs/reference/ablation.md
PYTHON ?= python3
DATA ?=

.PHONY: demo test check quick bench soak results transfer ablation docs format
.DELETE_ON_ERROR:

demo: .venv/ready
	.venv/bin/python -m indexer.demo $(DATA)

# Two processes of one thread each: the small networks of the tests gain nothing from more threads.
test: check
	OMP_NUM_THREADS=1 .venv-dev/bin/pytest -n 2 --dist worksteal

check: .venv-dev/ready
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy

quick: .venv-dev/ready
	OMP_NUM_THREADS=1 .venv-dev/bin/pytest -n 2 --dist worksteal -m "not slow"

bench: .venv-dev/ready
	.venv-dev/bin/python -m benchmarks

soak: .venv-dev/ready
	.venv-dev/bin/python -m benchmarks.soak

results: .venv-dev/ready
	.venv-dev/bin/python -m benchmarks.results
	.venv-dev/bin/python -m benchmarks.carry_over

transfer: .venv-dev/ready
	.venv-dev/bin/python -m benchmarks.transfer

ablation: .venv-dev/ready
	.venv-dev/bin/python -m benchmarks.ablation

docs: .venv-dev/ready
	.venv-dev/bin/python docs/reference.py
	.venv-dev/bin/mkdocs build --quiet

format: .venv-dev/ready
	.venv-dev/bin/ruff check --fix .
	.venv-dev/bin/ruff format .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv-dev/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-dev
	.venv-dev/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,encoders,dev]'
	touch $@
