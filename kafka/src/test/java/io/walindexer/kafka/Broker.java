package io.walindexer.kafka;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.kafka.common.TopicIdPartition;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.server.log.remote.storage.LogSegmentData;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentId;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata.CustomMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentState;
import org.junit.jupiter.api.Assertions;

/** What a broker has and does: one sealed segment with its index files, and the plugin's configuration. */
final class Broker {
    static final Uuid TOPIC_ID = Uuid.fromString("Ahm3VTYKQwmvlc-zNPcVFA");

    private static final AtomicInteger BROKER_IDS = new AtomicInteger();

    final byte[] segment;
    final Path folder;
    final Path log;
    final TopicIdPartition partition = new TopicIdPartition(TOPIC_ID, new TopicPartition("orders", 3));

    Broker(Path folder, int segmentBytes) throws IOException {
        this.folder = folder;
        this.segment = bytes(segmentBytes, 1);
        this.log = Files.write(folder.resolve("00000000000000000017.log"), segment);
        Files.write(folder.resolve("offset"), bytes(4096, 2));
        Files.write(folder.resolve("time"), bytes(0, 3));
        Files.write(folder.resolve("snapshot"), bytes(100, 4));
        Files.write(folder.resolve("txn"), bytes(70_000, 5));
    }

    static byte[] bytes(int size, int seed) {
        byte[] bytes = new byte[size];
        new Random(seed).nextBytes(bytes);
        return bytes;
    }

    LogSegmentData data(boolean withTransactionIndex) {
        return new LogSegmentData(log, folder.resolve("offset"), folder.resolve("time"),
            withTransactionIndex ? Optional.of(folder.resolve("txn")) : Optional.empty(),
            folder.resolve("snapshot"), ByteBuffer.wrap(bytes(33, 6)));
    }

    /** The metadata of a new attempt. */
    RemoteLogSegmentMetadata attempt() {
        return attempt(Uuid.randomUuid(), segment.length);
    }

    RemoteLogSegmentMetadata attempt(Uuid id, int sizeBytes) {
        return new RemoteLogSegmentMetadata(new RemoteLogSegmentId(partition, id), 17, 99, 1_000, 1, 2_000, sizeBytes,
            Optional.empty(), RemoteLogSegmentState.COPY_SEGMENT_STARTED, Map.of(0, 17L));
    }

    static RemoteLogSegmentMetadata finished(RemoteLogSegmentMetadata attempt, CustomMetadata custom) {
        return new RemoteLogSegmentMetadata(attempt.remoteLogSegmentId(), attempt.startOffset(), attempt.endOffset(),
            attempt.maxTimestampMs(), attempt.brokerId(), attempt.eventTimestampMs(), attempt.segmentSizeInBytes(),
            Optional.of(custom), RemoteLogSegmentState.COPY_SEGMENT_FINISHED, attempt.segmentLeaderEpochs());
    }

    /** A configured plugin. {@code settings} are keys and values in turn. */
    static WalIndexerRemoteStorageManager plugin(Stream<String> workers, Object... settings) {
        WalIndexerRemoteStorageManager plugin = new WalIndexerRemoteStorageManager();
        plugin.configure(config(workers, settings));
        return plugin;
    }

    static WalIndexerRemoteStorageManager plugin(ScriptedWorker worker, Object... settings) {
        return plugin(Stream.of(worker.address()), settings);
    }

    static Map<String, Object> config(Stream<String> workers, Object... settings) {
        Map<String, Object> config = new HashMap<>();
        config.put("broker.id", BROKER_IDS.incrementAndGet());
        config.put("workers", workers.collect(Collectors.joining(",")));
        for (int i = 0; i < settings.length; i += 2) {
            config.put((String) settings[i], settings[i + 1]);
        }
        return config;
    }

    /** Waits until a condition holds, at most for 5 s. */
    static void await(String what, Callable<Boolean> condition) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(5);
        while (!condition.call()) {
            if (System.nanoTime() > end) {
                throw new AssertionError("not within 5 s: " + what);
            }
            Thread.sleep(5);
        }
    }

    /** Work in a thread of its own, as in Kafka's pools. */
    static <T> Task<T> inBackground(Callable<T> work) {
        Task<T> task = new Task<>(work);
        task.thread.start();
        return task;
    }

    /** A running piece of work. */
    static final class Task<T> {
        private final FutureTask<T> future;
        private final Thread thread;
        private volatile boolean flagAtEnd;

        private Task(Callable<T> work) {
            future = new FutureTask<>(() -> {
                try {
                    return work.call();
                } finally {
                    flagAtEnd = Thread.currentThread().isInterrupted();
                }
            });
            thread = new Thread(future, "broker");
        }

        boolean isAlive() {
            return thread.isAlive();
        }

        T result() throws Exception {
            return future.get(20, TimeUnit.SECONDS);
        }

        Throwable failure() throws Exception {
            return Assertions.assertThrows(ExecutionException.class, this::result).getCause();
        }

        /** Interrupts the thread. The work must fail soon, and leave the interruption to be seen. */
        Throwable assertInterruptedWithin(Duration limit) throws Exception {
            long start = System.nanoTime();
            thread.interrupt();
            Throwable failure = failure();
            Duration took = Duration.ofNanos(System.nanoTime() - start);
            Assertions.assertTrue(took.compareTo(limit) < 0, "it took " + took);
            Assertions.assertTrue(failure.getMessage().endsWith("was interrupted"), failure.getMessage());
            Assertions.assertTrue(flagAtEnd, "the thread's interruption is lost");
            return failure;
        }
    }
}
