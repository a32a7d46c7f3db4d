# make build      the static binary, at target/release/containerd-shim-berth-v2
# make test       every test, against three containerds and in guests; needs root
# make test-guest what this host lacks (cgroup v2, systemd, AppArmor, SELinux), in guests that QEMU emulates
# make test-podman podman with Berth below it, beside runc and crun; needs root; fetches podman by apt, installs nothing
# make test-engines dockerd, BuildKit and rootless podman with Berth below them, beside runc; likewise
# make demo       containers run by Berth on a private containerd, explained; needs root
# make bench      Berth beside runc and crun; needs root and a few minutes
# make lint       format, clippy, documentation, and what the crates may know of each other
# make install    DESTDIR= PREFIX=/usr/local: the shim, and its other name `berth`

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PREFIX ?= /usr/local
CARGO ?= cargo
NAME := containerd-shim-berth-v2
OUTPUT := target/release/$(NAME)

# crt-static needs an explicit target: the machine's own.
ifndef CARGO_BUILD_TARGET
CARGO_BUILD_TARGET := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
endif
export CARGO_BUILD_TARGET
export BERTH_COMMIT := $(shell git describe --always --dirty --abbrev=12 2>/dev/null)
BUILT := $(or $(CARGO_TARGET_DIR),target)/$(CARGO_BUILD_TARGET)/release/$(NAME)

.PHONY: build test test-guest test-podman test-engines demo bench lint lint-crates lint-names install deps setup clean

build: deps
	$(CARGO) build --release --locked -p shim
	cmp -s $(BUILT) $(OUTPUT) || install -D -m 755 $(BUILT) $(OUTPUT)
	@ls -l $(OUTPUT)

$(OUTPUT):
	$(MAKE) build

# Fetched by apt, with lists of their own, into target/containerds; nothing is installed.
setup: deps
	tests/setup

deps:
	@tests/deps

test: build setup
	@status=0; set -x; \
	BERTH_SHIM=$(OUTPUT) $(CARGO) test --locked --workspace --no-fail-fast </dev/null || status=$$?; \
	CARGO='$(CARGO)' tests/guest/run || status=$$?; \
	exit $$status

test-guest: deps
	CARGO='$(CARGO)' tests/guest/run

test-podman: build
	BERTH_SHIM=$(OUTPUT) tests/podman/run

test-engines: build
	BERTH_SHIM=$(OUTPUT) tests/engines/run

demo: build setup
	BERTH_SHIM=$(OUTPUT) examples/demo

bench: build setup
	@tests/deps bench
	$(CARGO) build --locked --release -p netns --example stage
	$(CARGO) build --locked -p berth-tests --bin bench
	BERTH_SHIM=$(OUTPUT) $(CARGO) run --locked -q -p berth-tests --bin bench </dev/null

lint: deps lint-crates lint-names
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc --locked --workspace --no-deps --document-private-items

# runtime-core and netns are synchronous, and know neither the shim's world nor each other.
lint-crates:
	@for crate in runtime-core netns; do \
	    known=$$($(CARGO) tree --locked -p $$crate -e normal --prefix none --format '{p}' | \
	        { grep -E '^(tokio|ttrpc|containerd-|tracing|runtime-core|netns)' || true; } | { grep -v "^$$crate " || true; }); \
	    [ -z "$$known" ] || { echo "$$crate may not depend on:"; echo "$$known"; exit 1; }; \
	done

# No image registry and no path of somebody's machine in what is committed. (The brackets keep this line from matching.)
lint-names:
	@! git grep -nIE '(docke[r]|qua[y]|ghc[r]|gc[r])\.io\b|registr[y]\.k8s\.io|mc[r]\.microsoft\.com|/wor[k]/|/tmp/w[t]/|/roo[t]/\.|/hom[e]/[a-z]+/\.?(cargo|src|work)' \
	    -- . ':!Cargo.lock' || { echo 'a registry host or a path of one machine is named above'; exit 1; }

install: $(OUTPUT)
	install -D -m 755 $(OUTPUT) $(DESTDIR)$(PREFIX)/bin/$(NAME)
	ln -sfn $(NAME) $(DESTDIR)$(PREFIX)/bin/berth

clean:
	$(CARGO) clean
