# Thin names for cargo and scripts. Each target first installs what it misses (scripts/setup says what and why).

SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.PHONY: demo test e2e soak guest compare lint bench

# The whole story on sparse files in a minute: no root, no drives.
demo:
	@flags=$$(scripts/setup build)
	cargo run --release $$flags -- demo

# Unit and integration tests, and the short end-to-end checks with real clients.
test:
	@flags=$$(scripts/setup build test)
	cargo test --workspace $$flags

# The long end-to-end checks too: loop devices and mounts (root), and as many crashes as STRIATE_E2E_KILLS says.
e2e:
	@flags=$$(scripts/setup build test)
	STRIATE_E2E_KILLS=$${STRIATE_E2E_KILLS:-20} cargo test $$flags --test e2e -- --include-ignored

# The simulator, the mutants, the scopes, fuzzing, end-to-end checks and Linux 6.1 in the guest for an hour; a record in target/soak.
# STRIATE_SOAK_SCALE=1000 takes a night. PARTS='sim-bad fuzz' runs a part of it (scripts/soak --list).
soak:
	@flags=$$(scripts/setup build test)
	scripts/soak $(PARTS)

# Real kernels with ublk under QEMU's emulation: file systems, kills, power cuts, pulled drives. No root, no /dev/kvm.
# STAGES='main:mount,idle old' runs a part of it.
guest:
	@flags=$$(scripts/setup build guest)
	cargo build --release $$flags
	tests/guest/run $(STAGES)

# The same machine, side by side with Linux md: a table in benches/record, a plot in docs.
compare:
	@flags=$$(scripts/setup build guest)
	cargo build --release $$flags
	tests/guest/compare

lint:
	@flags=$$(scripts/setup build)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $$flags -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps $$flags

# Criterion benches of the rooms (parity, bitmap, planner, stripe), then fio against a served array.
bench:
	@flags=$$(scripts/setup build bench)
	cargo bench --workspace $$flags --bench '*'
	cargo build --release $$flags
	scripts/bench-nbd
