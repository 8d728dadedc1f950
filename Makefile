.PHONY: check format test release

# Everything that a change must pass: formatter, linter, strict types, tests.
check:
	ruff format --check src tests benchmarks
	ruff check src tests benchmarks
	mypy
	pytest

format:
	ruff format src tests benchmarks
	ruff check --fix src tests benchmarks

test:
	pytest

# Builds and tries a release; prints what it would publish. `make release PUBLISH=1` publishes it.
release:
	python .ci/release.py $(if $(PUBLISH),--publish)
