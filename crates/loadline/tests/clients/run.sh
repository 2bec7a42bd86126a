#!/bin/sh
# Runs the real OpenAI clients against `loadline up`; the last line is `N passed, N failed`.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../../.." && pwd)
profile=${LOADLINE_PROFILE:-ci}
[ "$profile" = dev ] && folder=debug || folder=$profile
(cd "$root" && cargo build --quiet --locked --profile "$profile" --package loadline)
work=$root/target/clients
mkdir -p "$work/node"
[ -x "$work/python/bin/python" ] || python3 -m venv "$work/python"
"$work/python/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
cp "$here/package.json" "$here/package-lock.json" "$here/check.mjs" "$work/node/"
(cd "$work/node" && npm ci --silent --no-fund --no-audit)
exec "$work/python/bin/python" "$here/run.py" "$root/target/$folder/loadline" "$work/node"
