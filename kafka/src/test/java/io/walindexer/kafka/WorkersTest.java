package io.walindexer.kafka;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.InsecureServerCredentials;
import io.grpc.Status;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.UnknownHostException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteStorageException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class WorkersTest {
    @TempDir
    Path folder;

    @Test
    void the_worker_with_the_fewest_calls_gets_the_next() throws Exception {
        ScriptedWorker.Store store = new ScriptedWorker.Store();
        Broker broker = new Broker(folder, 5_000_000);
        List<InputStream> open = new ArrayList<>();
        try (ScriptedWorker first = new ScriptedWorker(store); ScriptedWorker second = new ScriptedWorker(store);
                WalIndexerRemoteStorageManager plugin = Broker.plugin(Stream.of(first.address(), second.address()),
                    "startup.check", false)) {
            RemoteLogSegmentMetadata copy = broker.attempt();
            plugin.copyLogSegmentData(copy, broker.data(true));
            for (int i = 0; i < 20; i++) {
                open.add(plugin.fetchLogSegment(copy, 0));
            }
            assertEquals(10, first.readCalls.get());
            assertEquals(10, second.readCalls.get());
        }
    }

    @Test
    void a_worker_that_is_gone_costs_its_callers_nothing_and_is_used_when_it_is_back() throws Exception {
        ScriptedWorker.Store store = new ScriptedWorker.Store();
        Broker broker = new Broker(folder, 1_000);
        ScriptedWorker first = new ScriptedWorker(store);
        try (ScriptedWorker second = new ScriptedWorker(store);
                WalIndexerRemoteStorageManager plugin = Broker.plugin(Stream.of(first.address(), second.address()),
                    "startup.check", false)) {
            int port = first.port();
            first.close();
            for (int i = 0; i < 10; i++) {
                plugin.copyLogSegmentData(broker.attempt(), broker.data(true));
            }
            assertEquals(10, second.copyCalls.get());
            try (ScriptedWorker back = new ScriptedWorker(store, InsecureServerCredentials.create(), port)) {
                Broker.await("the worker is used again", () -> {
                    plugin.copyLogSegmentData(broker.attempt(), broker.data(true));
                    return back.copyCalls.get() > 0;
                });
            }
        }
    }

    @Test
    void a_call_waits_for_a_worker_within_its_deadline() throws Exception {
        Broker broker = new Broker(folder, 1_000);
        ScriptedWorker gone = new ScriptedWorker();
        int port = gone.port();
        gone.close();
        try (WalIndexerRemoteStorageManager plugin = Broker.plugin(Stream.of("127.0.0.1:" + port))) {
            Broker.Task<?> copy = Broker.inBackground(() ->
                plugin.copyLogSegmentData(broker.attempt(), broker.data(true)));
            Thread.sleep(700);
            assertTrue(copy.isAlive());
            try (ScriptedWorker back = new ScriptedWorker(new ScriptedWorker.Store(),
                    InsecureServerCredentials.create(), port)) {
                copy.result();
                assertEquals(1, back.storedCopies());
            }
        }
    }

    @Test
    void a_wait_for_a_worker_can_be_interrupted() throws Exception {
        Broker broker = new Broker(folder, 1_000);
        try (WalIndexerRemoteStorageManager plugin = Broker.plugin(Stream.of("127.0.0.1:1"))) {
            Broker.Task<?> copy = Broker.inBackground(() ->
                plugin.copyLogSegmentData(broker.attempt(), broker.data(true)));
            Thread.sleep(1_000);
            copy.assertInterruptedWithin(Duration.ofSeconds(1));
        }
    }

    @Test
    void a_refusal_is_not_repeated() throws Exception {
        Broker broker = new Broker(folder, 1_000);
        try (ScriptedWorker worker = new ScriptedWorker();
                WalIndexerRemoteStorageManager plugin = Broker.plugin(worker, "startup.check", false)) {
            Status.Code[] refusals = {Status.Code.INVALID_ARGUMENT, Status.Code.DATA_LOSS, Status.Code.INTERNAL,
                Status.Code.FAILED_PRECONDITION, Status.Code.PERMISSION_DENIED};
            for (Status.Code code : refusals) {
                worker.failures.add(ScriptedWorker.error(code, "SCRIPTED", 0));
                assertThrows(RemoteStorageException.class,
                    () -> plugin.copyLogSegmentData(broker.attempt(), broker.data(true)));
            }
            assertEquals(refusals.length, worker.copyCalls.get());
        }
    }

    @Test
    void a_name_stands_for_all_its_addresses_and_a_failed_lookup_changes_nothing() throws Exception {
        AtomicReference<List<InetAddress>> addresses = new AtomicReference<>(
            List.of(InetAddress.getByName("127.0.0.1"), InetAddress.getByName("127.0.0.2")));
        WorkerPool.Resolver resolver = host -> {
            assertEquals("workers.test", host);
            if (addresses.get() == null) {
                throw new UnknownHostException(host);
            }
            return addresses.get();
        };
        ScheduledExecutorService background = Executors.newSingleThreadScheduledExecutor();
        try {
            WorkerPool pool = new WorkerPool(List.of(Endpoint.parse("workers.test:7070")), resolver,
                new Dialer(null, io.grpc.Metadata::new), background);
            pool.start();
            assertEquals(Set.of("workers.test:7070 (127.0.0.1)", "workers.test:7070 (127.0.0.2)"), names(pool));
            addresses.set(null);
            pool.lookupSoon();
            Thread.sleep(300);
            assertEquals(2, pool.all().size());
            Worker kept = pool.all().stream().filter(worker -> worker.toString().contains("127.0.0.2")).findFirst()
                .orElseThrow();
            addresses.set(List.of(InetAddress.getByName("127.0.0.2"), InetAddress.getByName("127.0.0.3")));
            Broker.await("the name is looked up again", () -> {
                pool.lookupSoon();
                return names(pool).equals(
                    Set.of("workers.test:7070 (127.0.0.2)", "workers.test:7070 (127.0.0.3)"));
            });
            assertTrue(pool.all().contains(kept));
        } finally {
            background.shutdownNow();
        }
    }

    private static Set<String> names(WorkerPool pool) {
        return pool.all().stream().map(Worker::toString).collect(Collectors.toSet());
    }

    @Test
    void the_token_is_read_again_when_its_file_changes() throws Exception {
        Path token = Files.writeString(folder.resolve("token"), "first-token\n");
        Broker broker = new Broker(folder, 1_000);
        try (ScriptedWorker worker = new ScriptedWorker();
                WalIndexerRemoteStorageManager plugin = Broker.plugin(worker, "token.file", token.toString())) {
            assertEquals(List.of("Bearer first-token"), worker.authorizations);
            Path renewed = Files.writeString(folder.resolve("renewed"), "second-token\n");
            Files.move(renewed, token, StandardCopyOption.ATOMIC_MOVE,
                StandardCopyOption.REPLACE_EXISTING);
            Broker.await("the new token is sent", () -> {
                plugin.deleteLogSegmentData(broker.attempt());
                return worker.authorizations.get(worker.authorizations.size() - 1).equals("Bearer second-token");
            });
            Files.delete(token);
            TimeUnit.MILLISECONDS.sleep(1_100);
            plugin.deleteLogSegmentData(broker.attempt());
            assertEquals("Bearer second-token", worker.authorizations.get(worker.authorizations.size() - 1));
        }
    }

    @Test
    void a_closed_plugin_answers_with_an_error_that_kafka_handles() throws Exception {
        Broker broker = new Broker(folder, 1_000);
        try (ScriptedWorker worker = new ScriptedWorker()) {
            WalIndexerRemoteStorageManager plugin = Broker.plugin(worker);
            plugin.close();
            plugin.close();
            assertTrue(assertThrows(RemoteStorageException.class,
                () -> plugin.copyLogSegmentData(broker.attempt(), broker.data(true))).getMessage()
                .contains("the plugin is closed"));
        }
    }

    /** Kafka's own tests look for threads that are left when a broker has stopped. */
    @Test
    void no_thread_is_left_when_the_plugin_is_closed() throws Exception {
        Broker broker = new Broker(folder, 1_000);
        Set<Thread> before = Thread.getAllStackTraces().keySet();
        // What accepts connections and says nothing has no threads of gRPC.
        try (ServerSocket silent = new ServerSocket(0, 10, InetAddress.getByName("127.0.0.1"))) {
            WalIndexerRemoteStorageManager plugin = Broker.plugin(Stream.of("127.0.0.1:" + silent.getLocalPort()),
                "startup.check", false, "delete.timeout.ms", 500);
            assertThrows(RemoteStorageException.class, () -> plugin.deleteLogSegmentData(broker.attempt()));
            assertTrue(pluginThreadsSince(before).size() > 1, pluginThreadsSince(before).toString());
            plugin.close();
            assertEquals(List.of(), pluginThreadsSince(before));
        }
    }

    private static List<String> pluginThreadsSince(Set<Thread> before) {
        return Thread.getAllStackTraces().keySet().stream().filter(thread -> !before.contains(thread))
            .map(Thread::getName).filter(name -> name.startsWith("grpc-") || name.startsWith("wal-indexer-"))
            .collect(Collectors.toList());
    }
}
