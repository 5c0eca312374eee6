package io.walindexer.kafka;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.LongSupplier;
import org.apache.kafka.common.MetricName;
import org.apache.kafka.common.metrics.Gauge;
import org.apache.kafka.common.metrics.Monitorable;
import org.apache.kafka.common.metrics.PluginMetrics;

/**
 * The plugin for Kafka 4.1 and later, whose metrics are also Kafka's own, so that Kafka's metrics reporters see
 * them. Kafka asks for them only if the jar is on the broker's class path, not if
 * {@code remote.log.storage.manager.class.path} names it. Earlier releases cannot load this class.
 */
public final class MonitorableWalIndexerRemoteStorageManager extends WalIndexerRemoteStorageManager
        implements Monitorable {
    private static final String GROUP = "wal-indexer";

    /** Called by Kafka, which names this class in {@code remote.log.storage.manager.class.name}. */
    public MonitorableWalIndexerRemoteStorageManager() {
    }

    @Override
    public void withPluginMetrics(PluginMetrics pluginMetrics) {
        for (Map.Entry<String, LongSupplier> metric : metrics().entrySet()) {
            MetricName name = pluginMetrics.metricName(metric.getKey(), GROUP, new LinkedHashMap<>());
            Gauge<Long> value = (config, now) -> metric.getValue().getAsLong();
            pluginMetrics.addMetric(name, value);
        }
    }
}
