# `make kubo` builds the Kubo that go.mod beside this file pins, once, into a place that outlives the checkout;
# tests/network/nodes.py looks for it there. `go install ...@version` refuses Kubo's `exclude` lines, hence a module of
# our own. Built under another name and renamed, so that a build cut short leaves nothing that looks like a binary.
KUBO_MODULE := $(dir $(lastword $(MAKEFILE_LIST)))
KUBO_VERSION := $(shell sed -n 's|^.*github.com/ipfs/kubo \(v[0-9.]*\).*|\1|p' $(KUBO_MODULE)go.mod)
KUBO_PLACE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/torch_ipfs/kubo-$(KUBO_VERSION)

.PHONY: kubo
kubo:  ## build the real Kubo that tests run against, once (needs Go; minutes)
	@if [ -x "$(KUBO_PLACE)/ipfs" ]; then echo "Kubo $(KUBO_VERSION): $(KUBO_PLACE)/ipfs"; else \
		mkdir -p "$(KUBO_PLACE)" && built="$(KUBO_PLACE)/.ipfs.$$$$.tmp" && trap 'rm -f "$$built"' EXIT && \
		(cd "$(KUBO_MODULE)" && go build -trimpath -o "$$built" github.com/ipfs/kubo/cmd/ipfs) && \
		mv "$$built" "$(KUBO_PLACE)/ipfs" && echo "built $(KUBO_PLACE)/ipfs"; fi

# Tests against real nodes are skipped, saying so, where there is neither Go nor a binary; in CI they must run.
.PHONY: kubo-where-go
kubo-where-go:
	@if command -v go > /dev/null || [ -n "$${CI:-}" ]; then $(MAKE) --no-print-directory kubo; fi
