#!/usr/bin/env bash
# Shows the plugin at work, for `make kafka-demo`: a real Kafka broker, a worker and a store, which are a directory. It
# needs a JDK, Maven and cargo. It ends everything that it starts, and removes its directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=4.4.0
jars=target/tools-kafka/$version
records=60000

for tool in java mvn cargo; do
    command -v "$tool" >/dev/null || { echo "make kafka-demo needs $tool" >&2; exit 2; }
done

dir=$(mktemp -d "${TMPDIR:-/tmp}/wal-indexer-kafka-demo-XXXXXX")
started=()
end() {
    local status=$?
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [ "$status" != 0 ]; then
        for log in "$dir"/*.log; do echo "== $log"; tail -n 15 "$log"; done >&2
    fi
    rm -rf "$dir"
}
trap end EXIT
trap 'exit 130' INT TERM

java=(java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$jars/*")
kafka() {
    "${java[@]}" "$@" 2>>"$dir/tools.log"
}

# wait_for SECONDS WHAT COMMAND…
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "$what" >&2; exit 1; }
        sleep 0.2
    done
}

free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

listens() {
    (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

segments() {
    (cd "$dir/data/orders-0" && ls ./*.log) 2>/dev/null | sed 's|^./||'
}

only_the_active_one() {
    [ "$(segments | wc -l)" = 1 ]
}

# What is needed. The first time this takes minutes.
cargo build --quiet --locked --no-default-features --features cli
if [ ! -d "$jars" ]; then
    mvn -B -q -f tests/kafka/pom.xml -Dkafka.version="$version" dependency:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$PWD/$jars"
fi
plugin=$(ls kafka/target/wal-indexer-kafka-*.jar 2>/dev/null | head -n 1)
if [ -z "$plugin" ] || [ -n "$(find kafka/src kafka/pom.xml proto -newer "$plugin" -type f | head -n 1)" ]; then
    mvn -B -q -f kafka/pom.xml package -DskipTests
    plugin=$(ls kafka/target/wal-indexer-kafka-*.jar | head -n 1)
fi

mkdir "$dir/store"
./target/debug/wal-indexer serve --listen 127.0.0.1:0 --store "file://$dir/store" >"$dir/address" 2>"$dir/worker.log" &
started+=($!)
wait_for 30 "the worker does not start" grep -q listening "$dir/address"
worker=$(sed 's/listening on //' "$dir/address")

broker=$(free_port)
controller=$(free_port)
cat >"$dir/tiered.properties" <<EOF
remote.log.storage.system.enable=true
remote.log.storage.manager.class.path=$PWD/$plugin
remote.log.storage.manager.class.name=io.walindexer.kafka.WalIndexerRemoteStorageManager
rsm.config.workers=$worker
EOF
cat - "$dir/tiered.properties" >"$dir/server.properties" <<EOF
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:$broker,CONTROLLER://127.0.0.1:$controller
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:$controller
log.dirs=$dir/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
remote.log.metadata.manager.listener.name=PLAINTEXT
rlmm.config.remote.log.metadata.topic.replication.factor=1
rlmm.config.remote.log.metadata.topic.num.partitions=1
remote.log.manager.task.interval.ms=500
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
EOF
kafka kafka.tools.StorageTool format -t AAAAAAAAQACAAAAAAAAAAQ -c "$dir/server.properties" >>"$dir/tools.log"
"${java[@]}" kafka.Kafka "$dir/server.properties" >"$dir/broker.log" 2>&1 &
started+=($!)
wait_for 60 "the broker does not start" listens "$broker"

echo "Kafka $version with these four lines more in its server.properties, a worker and an empty store:"
sed "s|$PWD/||; s|^|    |" "$dir/tiered.properties"
echo
echo '$ kafka-topics --create --topic orders --config remote.storage.enable=true --config local.retention.bytes=1 …'
kafka org.apache.kafka.tools.TopicCommand --bootstrap-server "127.0.0.1:$broker" --create --topic orders \
    --config remote.storage.enable=true --config local.retention.bytes=1 --config segment.bytes=1048576 >>"$dir/tools.log"
seq "$records" | awk '{
    printf "{\"order\":\"o%d\",\"user\":%d,\"status\":\"%s\",\"note\":\"paid by card, sent from warehouse %d, delivered on day %d\"}\n",
        $1, $1 * 7919 % 10007, $1 % 50 ? "ok" : "refused", $1 % 17, $1 % 365
}' >"$dir/produced"
echo "$ kafka-console-producer --topic orders      # $records records, $(du -h --apparent-size "$dir/produced" | cut -f1)"
kafka org.apache.kafka.tools.ConsoleProducer --bootstrap-server "127.0.0.1:$broker" --topic orders <"$dir/produced"
wait_for 60 "segments stay on the broker's disk" only_the_active_one
echo "Then the broker's disk holds only the segment that it writes to: $(segments)"
echo
echo '$ wal-indexer ls --topic orders --store STORE'
./target/debug/wal-indexer ls --topic orders --store "file://$dir/store"
echo
echo "$ kafka-console-consumer --topic orders --from-beginning | sha256sum"
kafka org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "127.0.0.1:$broker" --topic orders \
    --from-beginning --max-messages "$records" --timeout-ms 60000 >"$dir/consumed"
consumed=$(sha256sum <"$dir/consumed" | cut -d' ' -f1)
[ "$consumed" = "$(sha256sum <"$dir/produced" | cut -d' ' -f1)" ] || { echo "the consumer read something else" >&2; exit 3; }
echo "$consumed, as was produced"
echo
echo '$ wal-indexer search '"'order:o31415'"' --topic orders --endpoint WORKER'
found=$(./target/debug/wal-indexer search 'order:o31415' --topic orders --endpoint "http://$worker")
echo "$found"
grep -q '"o31415"' <<<"$found"
