package io.walindexer.probe;

import java.io.InputStream;
import java.lang.reflect.Proxy;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.common.MetricName;
import org.apache.kafka.common.TopicIdPartition;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.server.log.remote.storage.LogSegmentData;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentId;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata.CustomMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentState;
import org.apache.kafka.server.log.remote.storage.RemoteStorageException;
import org.apache.kafka.server.log.remote.storage.RemoteStorageManager;

/**
 * A process with the shaded jar and a release of Kafka's jars, and nothing else. It copies a segment, reads it back
 * and deletes it. Arguments: the plugin's class, a worker, the folder of the segment.
 */
public final class JarProbe {
    private JarProbe() {
    }

    public static void main(String[] args) throws Exception {
        RemoteStorageManager plugin = (RemoteStorageManager) Class.forName(args[0]).getConstructor().newInstance();
        plugin.configure(Map.of("broker.id", 1, "node.id", 1, "workers", args[1]));
        Path folder = Path.of(args[2]);
        RemoteLogSegmentMetadata attempt = metadata(folder, Optional.empty());
        Optional<CustomMetadata> custom = plugin.copyLogSegmentData(attempt, data(folder));
        RemoteLogSegmentMetadata copy = metadata(folder, custom);
        try (InputStream stream = plugin.fetchLogSegment(copy, 0)) {
            byte[] segment = Files.readAllBytes(folder.resolve("00000000000000000017.log"));
            System.out.println("same bytes: " + Arrays.equals(segment, stream.readAllBytes()));
        }
        plugin.deleteLogSegmentData(copy);
        System.out.println("metrics: " + metrics(plugin));
        plugin.close();
        Map<String, Object> config = new HashMap<>();
        config.put("workers", "127.0.0.1:1");
        config.put("copy.timeout.ms", 200);
        config.put("delete.timeout.ms", 200);
        plugin = (RemoteStorageManager) Class.forName(args[0]).getConstructor().newInstance();
        plugin.configure(config);
        System.out.println("a copy without a worker: " + failure(plugin, folder, false));
        System.out.println("a deletion without a worker: " + failure(plugin, folder, true));
        plugin.close();
    }

    private static String failure(RemoteStorageManager plugin, Path folder, boolean deletes) throws Exception {
        RemoteLogSegmentMetadata metadata = metadata(folder, Optional.empty());
        try {
            if (deletes) {
                plugin.deleteLogSegmentData(metadata);
            } else {
                plugin.copyLogSegmentData(metadata, data(folder));
            }
            return "none";
        } catch (RemoteStorageException e) {
            return e.getClass().getSimpleName();
        }
    }

    /** How many metrics the plugin gives to Kafka, as a release with {@code Monitorable} asks for them. */
    private static int metrics(RemoteStorageManager plugin) throws Exception {
        Class<?> monitorable;
        try {
            monitorable = Class.forName("org.apache.kafka.common.metrics.Monitorable");
        } catch (ClassNotFoundException e) {
            return 0;
        }
        if (!monitorable.isInstance(plugin)) {
            return 0;
        }
        AtomicInteger added = new AtomicInteger();
        Class<?> pluginMetrics = Class.forName("org.apache.kafka.common.metrics.PluginMetrics");
        Object recorder = Proxy.newProxyInstance(JarProbe.class.getClassLoader(), new Class<?>[] {pluginMetrics},
            (proxy, method, arguments) -> {
                if (method.getName().equals("metricName")) {
                    return new MetricName((String) arguments[0], "group", "", Map.of());
                }
                added.incrementAndGet();
                return null;
            });
        monitorable.getMethod("withPluginMetrics", pluginMetrics).invoke(plugin, recorder);
        return added.get();
    }

    private static RemoteLogSegmentMetadata metadata(Path folder, Optional<CustomMetadata> custom) throws Exception {
        Path log = folder.resolve("00000000000000000017.log");
        TopicIdPartition partition = new TopicIdPartition(Uuid.fromString("Ahm3VTYKQwmvlc-zNPcVFA"),
            new TopicPartition("orders", 3));
        RemoteLogSegmentId id = new RemoteLogSegmentId(partition, Uuid.fromString("-_m3VTYKQwmvlc-zNPcVFA"));
        return new RemoteLogSegmentMetadata(id, 17, 99, 1_000, 1, 2_000,
            Files.exists(log) ? (int) Files.size(log) : 0, custom, RemoteLogSegmentState.COPY_SEGMENT_STARTED,
            Map.of(0, 17L));
    }

    private static LogSegmentData data(Path folder) {
        return new LogSegmentData(folder.resolve("00000000000000000017.log"), folder.resolve("offset"),
            folder.resolve("time"), Optional.of(folder.resolve("txn")), folder.resolve("snapshot"),
            ByteBuffer.wrap(new byte[33]));
    }
}
