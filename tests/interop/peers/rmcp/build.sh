#!/bin/sh
# Builds the rmcp peers and puts them where the interoperation tests look: tests/interop/.setup/rmcp/.
# Called by tests/interop/setup.sh; safe to call again, quick when nothing changed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
setup=$(cd "$here/../.." && pwd)/.setup
mkdir -p "$setup/rmcp"
cargo build --locked --manifest-path "$here/Cargo.toml" --target-dir "$setup/rmcp-target"
for peer in server client conformance-server; do
    ln -sf "../rmcp-target/debug/$peer" "$setup/rmcp/$peer"
done
