# What is measured, and how: docs/benchmarks.md. FULL=1 for the numbers that are published,
# ARGS="--only starts" for a part; ARGS=--help lists the rest.

.PHONY: benchmark
benchmark: .venv
	.venv/bin/python -m benchmarks $(ARGS)

.venv:
	python3 -m venv .venv && .venv/bin/pip install --quiet --requirement tests/requirements.txt \
		|| { rm -rf .venv; exit 1; }
