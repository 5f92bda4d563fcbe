# Everything is one of these targets; the workflow in .github calls nothing else.
#
#   make up      build, start three nodes, bootstrap Kubernetes    make down    remove all of it
#   make test    every test                                        make lint    gofmt, vet, staticcheck
#   make build   the programs, into bin/                           make tools   the foreign programs, into bin/
#   make metrics-server  the real one, into bin/, for orrery addons enable metrics-server
#   make upstream  upstream's components, into bin/upstream/: tests put them in the place of ours

export CGO_ENABLED = 0
# Without the commit's stamp an unchanged program stays the same file, and the node image what it is.
GOFLAGS_BUILD = -trimpath -buildvcs=false -ldflags '-s -w'
# The version that the built kubectl reports.
GOFLAGS_TOOLS = -trimpath -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36 -X sigs.k8s.io/cri-tools/pkg/version.Version=v1.36.0'
PROFILE ?= orrery
NODES ?= 3

.PHONY: up down build tools metrics-server upstream helm image test test-unit race simulate sim-1000 fuzz e2e swap-nodes reliability beside-upstream compare-controllers compare-apiserver compare-scheduler bench-scheduler bench-apiserver lint loc clean help

help: ## print this list
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

up: build tools ## start a cluster of three nodes and say what to do next
	@bin/orrery start --nodes $(NODES) --profile $(PROFILE)

down: ## remove the cluster: containers, disks, network, files
	@if [ -x bin/orrery ]; then bin/orrery delete --profile $(PROFILE); else echo "There is no bin/orrery, so nothing was started from here."; fi

# The nodes are Linux wherever Docker runs; on a Mac their programs lie in bin/linux, and bin/ has only what runs there.
ifeq ($(shell go env GOOS),linux)
NODE_BIN = bin
else
NODE_BIN = bin/linux
endif

build: ## build Orrery's programs into bin/
	@mkdir -p $(NODE_BIN)
	@$(call timed,go build: Orrery's programs,GOOS=linux go build $(GOFLAGS_BUILD) -o $(NODE_BIN)/ ./cmd/... ./deploy/images/pause)
	@GOOS=linux go build $(GOFLAGS_BUILD) -o $(NODE_BIN)/podinfo ./deploy/demo
ifneq ($(NODE_BIN),bin)
	@go build $(GOFLAGS_BUILD) -o bin/ ./cmd/orrery
endif

TOOLS = ./kubectl ./etcd ./etcdctl ./coredns sigs.k8s.io/cri-tools/cmd/crictl github.com/containernetworking/plugins/plugins/main/loopback
HOST_TOOLS = ./kubectl honnef.co/go/tools/cmd/staticcheck
tools: bin/.tools ## build kubectl, crictl, etcd, etcdctl, CoreDNS, CNI's loopback and staticcheck into bin/ (once)
bin/.tools: $(wildcard deploy/tools/go.* deploy/tools/*/*.go)
	@mkdir -p $(NODE_BIN)
	@$(call timed,go build: kubectl$(comma) crictl$(comma) etcd$(comma) CoreDNS$(comma) staticcheck,cd deploy/tools && \
		GOOS=linux go build $(GOFLAGS_TOOLS) -o ../../$(NODE_BIN)/ $(TOOLS) && go build $(GOFLAGS_TOOLS) -o ../../bin/ $(HOST_TOOLS))
	@touch bin/.tools

METRICS_SERVER = $(shell sed -n 's|.*sigs.k8s.io/metrics-server \(v[0-9.]*\) .*|\1|p' deploy/metrics-server/go.mod)
metrics-server: bin/.metrics-server ## build the real metrics-server into bin/, for orrery addons enable metrics-server (minutes, once)
bin/.metrics-server: $(wildcard deploy/metrics-server/go.*)
	@mkdir -p $(NODE_BIN)
	@$(call timed,go build: metrics-server,cd deploy/metrics-server && GOOS=linux nice go build -trimpath -ldflags \
		"-s -w -X k8s.io/client-go/pkg/version.gitVersion=$(METRICS_SERVER)" -o ../../$(NODE_BIN)/ sigs.k8s.io/metrics-server/cmd/metrics-server)
	@touch $@

# The version that upstream's release builds carry; kubeadm and the API server refuse to be of none.
UPSTREAM = v1.36.3
UPSTREAM_VERSION = $(foreach p,k8s.io/component-base/version k8s.io/client-go/pkg/version,-X $(p).gitVersion=$(UPSTREAM) -X $(p).gitMajor=1 -X $(p).gitMinor=36 -X $(p).gitTreeState=clean)
upstream: bin/upstream/.built ## build upstream's components and etcd into bin/upstream/, as peers for tests (minutes, once)
bin/upstream/.built: $(wildcard test/upstream/go.* test/upstream/*/*.go)
	@mkdir -p bin/upstream
	@$(call timed,go build: upstream's kube-* and etcd,cd test/upstream && \
		GOOS=linux nice go build -trimpath -buildvcs=false -ldflags "-s -w $(UPSTREAM_VERSION)" -o ../../bin/upstream/ ./...)
	@touch $@

HELM_VERSION = -X helm.sh/helm/$(1)/internal/version.version=$(shell sed -n 's|.*helm.sh/helm/$(1) \(v[0-9.]*\) .*|\1|p' test/helm/go.mod)
helm: bin/.helm ## build Helm 4 and 3 into bin/, as foreign clients for tests (minutes, once)
bin/.helm: $(wildcard test/helm/go.*)
	@mkdir -p bin
	@$(call timed,go build: helm and helm3,cd test/helm && \
		nice go build -trimpath -ldflags "-s -w $(call HELM_VERSION,v4)" -o ../../bin/helm helm.sh/helm/v4/cmd/helm && \
		nice go build -trimpath -ldflags "-s -w $(call HELM_VERSION,v3)" -o ../../bin/helm3 helm.sh/helm/v3/cmd/helm)
	@touch $@

image: build tools ## build the node image
	@bin/orrery node-image

# -json is the only output that tells a skipped test's reason; test/tally prints the rest as usual.
UNIT = -timeout 20m
NODES_TESTS = -timeout 35m -count 1 -p 1 ./lab ./test/e2e
test: build tools metrics-server helm ## run every test
	@ORRERY_E2E=1 go run ./test/tally -- $(UNIT) $$(go list ./... | grep -v -e '/lab$$' -e '/test/e2e$$') -- $(NODES_TESTS)

test-unit: ## run the tests that need no Docker
	@go run ./test/tally -- $(UNIT) ./...

race: ## run the tests that need no Docker under the race detector (needs a C compiler)
	@CGO_ENABLED=1 SEEDS=20 go run ./test/tally -- -race -timeout 30m ./...

# A seed that failed runs again with: make simulate SEED=17
SEEDS ?= 200
simulate: ## run SEEDS random schedules of faults on whole clusters in fake time (make test runs 200)
	@SEEDS=$(or $(SEED),$(SEEDS)) go test -count 1 -timeout 120m ./test/sim -run 'TestRandomFaults$(if $(SEED),/all/seed=$(SEED)$$)'

FUZZTIME ?= 1m
fuzz: ## give the API server strange requests, FUZZTIME for each of the fuzz targets
	@for f in $$(go test ./apiserver -list '^Fuzz' | grep ^Fuzz); do echo "* $$f"; \
		nice go test ./apiserver -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) || exit 1; done

SIM_NODES ?= 1000
SIM_PODS ?= 10000
sim-1000: ## fill an orrery sim of SIM_NODES nodes with SIM_PODS pods, watch it in peace, print what it took
	@go test ./lab/sim -count 1 -timeout 60m -v -run TestALargeClusterHolds -nodes $(SIM_NODES) -pods $(SIM_PODS) -steady 2m

e2e: build tools metrics-server ## run the tests on Docker nodes, beside any cluster that is up
	@ORRERY_E2E=1 go run ./test/tally -- $(NODES_TESTS)

swap-nodes: build tools upstream ## upstream's kubelet, kube-proxy, kubeadm and CRI runtime on Docker nodes, each in the place of ours
	@ORRERY_E2E=1 ORRERY_E2E_SWAP=1 ORRERY_E2E_PROFILE=swapnode go run ./test/tally -- -timeout 40m -count 1 ./test/e2e -run TestSwap

reliability: ## kill the API server 200 times, follow 100,000 writes through restarts (about ten minutes)
	@go test ./test/reliability -count 1 -timeout 30m -v -kills 200 -writes 100000 -restarts 20

# What is recorded from upstream, what both make of one body, and what each makes of the other's data.
BESIDE = Recorded|AsUpstream|BothServers|OtherServer
beside-upstream: build upstream ## run the quicker tests that put upstream's API server beside ours (three minutes, and the build of upstream's)
	@go run ./test/tally -- -timeout 20m -count 1 -run '$(BESIDE)' ./test/replay ./test/swap

compare-controllers: build upstream ## our controllers beside upstream's through the same scripts; the differences (about five minutes)
	@go test ./test/compare -count 1 -timeout 45m -v -compare -whole

compare-apiserver: build upstream ## our API server beside upstream's on odd requests and on each field of each kind with wrong values; two tables, and bin/differences.txt* (a quarter of an hour)
	@go test ./test/parity -count 1 -timeout 60m -v -differences $(CURDIR)/bin/differences.txt

compare-scheduler: build upstream ## our scheduler beside upstream's on SEEDS random clusters; the differences (200: about three minutes)
	@go test ./test/placement -count 1 -timeout 60m -v $(if $(SEED),-seed $(SEED) -seeds 1,-seeds $(SEEDS))

SIZES ?= 100,1000,5000
bench-scheduler: build upstream ## our scheduler beside upstream's on SIZES nodes: a table of pods a second and of processor time (an hour or two)
	@go test ./test/schedbench -count 1 -timeout 240m -v -nodes $(SIZES) -rounds 3

bench-apiserver: build upstream ## our API server beside upstream's: one client program, in turns, a table (a quarter of an hour)
	@go test ./test/bench -count 1 -timeout 60m -v -run TestBesideUpstream -rounds 3

lint: tools ## gofmt, go vet and staticcheck
	@files=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); if [ -n "$$files" ]; then echo "not gofmt'ed:" $$files; exit 1; fi
	go vet ./...
	bin/staticcheck ./...

loc: ## lines of each room beside the design's figures
	@sh deploy/loc.sh

clean: down ## remove what was built, the node images too
	@docker images --format '{{.Repository}}:{{.Tag}}' 'orrery/*' 2>/dev/null | xargs -r docker rmi -f >/dev/null || true
	rm -rf bin .orrery

comma := ,
# $(call timed,title,command) says what is done and how long it took, as orrery's own steps do.
define timed
start=$$(date +%s); printf '* %-62s' "$(1) ..."; { $(2); } && printf '%5ds\n' $$(( $$(date +%s) - start ))
endef
