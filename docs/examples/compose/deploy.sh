#!/bin/sh
# Brings a new version of a server into service while its clients go on: `./deploy.sh [SERVICE]`.
# The service and relatch's server have one name, `notes` unless another is given.
set -eu
cd "$(dirname "$0")"
server=${1:-notes}
relatch() { docker compose exec -T relatch /relatch "$@"; }

# What takes long comes first: nobody waits for it.
docker compose pull --quiet "$server"

# New calls wait, running ones get 30 s. Should this script die, the pause ends by itself after 3 minutes.
relatch pause "$server" --drain 30s --for 3m || echo "$server: not every running call came to its end, or relatch does not run" >&2
# Whatever comes of it: a server that does not come up is waited for as after any outage, and calls are not held for it longer.
trap 'relatch resume "$server" || true' EXIT

docker compose up -d --no-deps --wait "$server"
