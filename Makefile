# Each target is one command of README or BUILD.md; WORKDIR is where the paper is made.
WORKDIR ?= runs/paper

.PHONY: demo test paper paper-quick

demo:
	bash scripts/demo.sh

test:
	bash scripts/test.sh

paper:
	bash scripts/paper.sh --workdir=$(WORKDIR)

paper-quick:
	bash scripts/paper.sh --workdir=$(WORKDIR) --quick
