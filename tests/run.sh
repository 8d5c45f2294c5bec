#!/usr/bin/env bash
# Sets up what the tests need and runs all of them: `bash tests/run.sh`.
#
# Each `say` below names a step. Peers, nginx, tinyproxy, valgrind, musl-tools, Chromium and python3-venv are installed by tests/interop/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

say "format, lints, documentation"
cargo fmt --all --check
cargo clippy --locked --workspace --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
# The one optional feature.
cargo clippy --locked -p relatch --features otel --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --locked -p relatch --features otel --no-deps --quiet

say "Rust tests, and every kept fuzz input"
cargo test --locked --workspace --quiet
cargo test --locked -p relatch --features otel --quiet --test keepers traces

say "the drill"
cargo build --locked --quiet
RELATCH="$PWD/target/debug/relatch"
export RELATCH
"$RELATCH" drill

say "peers for the interoperation tests"
bash tests/interop/setup.sh

say "the hot path: no piece takes a tenth more instructions than it did"
bench/guard

say "interoperation: 3 servers × 3 clients"
python3 tests/interop/run.py --ci

say "interoperation by the old transport: 2 servers × 2 clients"
python3 tests/interop/run.py --old-transport --ci

say "chaos: a minute of kills, cuts and silence, and the proof that it would see a fault"
python3 tests/chaos/test_judge.py
python3 tests/chaos/run.py --prove
python3 tests/chaos/run.py

say "truth: every view while servers go wrong, and the proof that a lie would be found"
python3 tests/truth/run.py --prove
python3 tests/truth/run.py

say "long answers that break: 2 clients"
python3 tests/interop/long.py --ci

say "the doctor: 17 transcripts of real servers, and of relatch itself"
python3 tests/interop/doctor/run.py

say "clients' files adopted, what they say started, and released: 2 servers, 2 clients"
python3 tests/interop/adopt.py

say "metrics, read by Prometheus' own client"
tests/interop/.setup/venv-metrics/bin/python tests/interop/metrics.py

say "servers that are commands: killed, odd, and gone with relatch"
python3 tests/command/run.py

say "every way to a server: unix sockets, certificates, proxies, names that move, IPv6, a network that is gone"
python3 tests/paths/run.py
say "clients that start before their server: 5 clients, 3 servers, both sides, commands"
python3 tests/late/run.py

say "announced restarts under load: paused servers, commands started anew, the deploys of the documents"
python3 tests/restart/run.py --ci

say "relatch dev: servers that are edited, built badly, crashed, and gone with relatch"
python3 tests/dev/run.py

say "as a service: readiness, watchdog, a socket handed over, a calm end"
python3 tests/service/run.py

say "the documents: every command line run, every client's entry played, every link followed"
python3 tests/docs/run.py

say "the page in a real browser"
python3 tests/page/run.py

say "packages: built, installed, run, removed"
packaging/test

say "conformance: direct and through relatch"
python3 tests/interop/conformance/run.py
