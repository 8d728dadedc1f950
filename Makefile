.PHONY: check docs format test release

# Everything that a change must pass: formatter, linter, strict types, tests.
check:
	ruff format --check src tests benchmarks docs
	ruff check src tests benchmarks docs
	mypy
	pytest

# The documentation site: open build/site/index.html.
docs:
	python -m sphinx -W --keep-going -n -q -c docs/site -d build/doctrees . build/site

format:
	ruff format src tests benchmarks docs
	ruff check --fix src tests benchmarks docs

test:
	pytest

# Builds and tries a release; prints what it would publish. `make release PUBLISH=1` publishes it.
release:
	python .ci/release.py $(if $(PUBLISH),--publish)
