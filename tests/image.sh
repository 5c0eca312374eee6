#!/usr/bin/env bash
# Makes the image's file system as the Dockerfile does, and runs a worker in it with chroot: as the image's user, who
# can write only to the store and the WAL directory. Takes the program as an argument. Needs root, or the right to make
# a user namespace.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

binary=${1:-target/debug/wal-indexer}
work=$(mktemp -d)
worker=
cleanup() {
    [ -z "$worker" ] || kill "$worker" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
fail() {
    echo "tests/image.sh: $*" >&2
    cat "$work/log" "$work/said" >&2 2>/dev/null || true
    exit 1
}

root=$work/rootfs
deploy/rootfs.sh "$root" "$binary"
[ -z "$(find "$root" -perm /6000)" ] || fail "something there runs with rights of its own"
[ "$(find "$root" -type f -path '*/bin/*')" = "$root/usr/local/bin/wal-indexer" ] || fail "there is more than one program"

# What the cluster provides: volumes and host names.
mkdir -p "$root/store" "$root/wal/logs/0"
echo '127.0.0.1 a-name' >"$root/etc/hosts"
chmod 755 "$work"
if [ "$(id -u)" = 0 ]; then
    chown -R 10001:10001 "$root/store" "$root/wal"
    inside=(chroot --userspec=10001:10001 "$root")
else
    inside=(unshare --map-root-user chroot "$root")
fi
run=(env -i PATH="$PATH" "${inside[@]}" /usr/local/bin/wal-indexer)
"${run[@]}" --version

"${run[@]}" serve --store file:///store --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 >"$work/said" 2>"$work/log" &
worker=$!
for _ in $(seq 600); do
    grep -q '^metrics on ' "$work/said" && break
    kill -0 "$worker" 2>/dev/null || fail "the worker ended"
    sleep 0.1
done
port=$(sed -n 's/^listening on .*://p' "$work/said")
# By host name, so that the C library has to look it up.
"${run[@]}" health --endpoint "http://a-name:$port" >/dev/null || fail "the worker is not well"
for id in 1 2; do
    "${run[@]}" generate --format chronik-v2 --size 1MiB --base-offset "${id}000000" --out "/wal/logs/0/wal_0_$id.log" >/dev/null
done
"${run[@]}" agent --once --wal-dir /wal --endpoint "http://a-name:$port" --min-segment-age 0 >/dev/null 2>"$work/agent.log" ||
    fail "the agent: $(tail -n 3 "$work/agent.log")"
[ "$(ls "$root/wal/logs/0")" = wal_0_2.log ] || fail "the segment is still there"
kill -TERM "$worker"
wait "$worker" || fail "the worker did not end well"
worker=
du -sh "$root" | sed "s|$root|in the image's file system|"
