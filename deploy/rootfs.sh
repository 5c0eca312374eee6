#!/usr/bin/env bash
# Makes the file system of the image in the directory DIR: the program, the libraries that it is linked to, the authorities whose
# certificates it trusts, and a user. Nothing else: no shell, no package manager. The Dockerfile does nothing that this does not do,
# so that it can be tried without an engine: tests/image.sh.
#
#   deploy/rootfs.sh DIR            builds the program first
#   deploy/rootfs.sh DIR BINARY     takes one that is built
#
# The program is linked to the system's C library, not statically: only that one looks names up as the cluster expects it to.
set -euo pipefail

dir=${1:?the directory to make}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -e "$dir" ]; then
    echo "$dir is there already" >&2
    exit 1
fi
binary=${2:-}
if [ -z "$binary" ]; then
    cargo build --locked --release --bin wal-indexer
    binary=target/release/wal-indexer
fi

install -d "$dir"/{usr/local/bin,etc/ssl/certs}
install -m 755 "$binary" "$dir/usr/local/bin/wal-indexer"
strip "$dir/usr/local/bin/wal-indexer"

# The libraries under the paths that the program looks for them; the loader's stands in it, too.
ldd "$binary" | grep -oE '/[^ ]+' | while read -r library; do
    install -D -m 755 "$(realpath "$library")" "$dir$library"
done
# Read when a name is looked up: files first, then DNS.
echo 'hosts: files dns' >"$dir/etc/nsswitch.conf"

install -m 644 /etc/ssl/certs/ca-certificates.crt "$dir/etc/ssl/certs/ca-certificates.crt"
echo 'wal-indexer:x:10001:10001::/:/usr/sbin/nologin' >"$dir/etc/passwd"
echo 'wal-indexer:x:10001:' >"$dir/etc/group"
