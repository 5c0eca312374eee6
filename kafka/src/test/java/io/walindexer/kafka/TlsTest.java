package io.walindexer.kafka;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.ServerCredentials;
import io.grpc.TlsServerCredentials;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.server.log.remote.storage.RemoteStorageException;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TlsTest {
    @TempDir
    static Path shared;
    private static Certificates first;
    private static Certificates second;

    @TempDir
    Path folder;

    @BeforeAll
    static void issue() throws Exception {
        first = new Certificates(shared, "first").issue("worker-1").issue("broker-1")
            .issue("elsewhere-1", "san=dns:elsewhere.test");
        second = new Certificates(shared, "second").issue("worker-2").issue("broker-2");
    }

    private static ScriptedWorker worker(Certificates authority, String name, Certificates clients, int port)
            throws Exception {
        TlsServerCredentials.Builder tls = TlsServerCredentials.newBuilder()
            .keyManager(authority.certificate(name).toFile(), authority.key(name).toFile());
        if (clients != null) {
            tls.trustManager(clients.ca().toFile()).clientAuth(TlsServerCredentials.ClientAuth.REQUIRE);
        }
        ServerCredentials credentials = tls.build();
        return new ScriptedWorker(new ScriptedWorker.Store(), credentials, port);
    }

    @Test
    void a_worker_with_a_certificate_of_the_authority_is_used() throws Exception {
        try (ScriptedWorker worker = worker(first, "worker-1", null, 0);
                WalIndexerRemoteStorageManager plugin = Broker.plugin(worker, "tls.enabled", true,
                    "tls.ca.file", first.ca().toString())) {
            Broker broker = new Broker(folder, 1_000_000);
            plugin.copyLogSegmentData(broker.attempt(), broker.data(true));
            assertEquals(1, worker.storedCopies());
        }
    }

    @Test
    void a_worker_of_another_authority_or_name_stops_the_start_and_says_what_to_do() throws Exception {
        try (ScriptedWorker other = worker(second, "worker-2", null, 0);
                ScriptedWorker elsewhere = worker(first, "elsewhere-1", null, 0)) {
            for (ScriptedWorker worker : new ScriptedWorker[] {other, elsewhere}) {
                ConfigException refusal = assertThrows(ConfigException.class, () -> Broker.plugin(worker,
                    "tls.enabled", true, "tls.ca.file", first.ca().toString()));
                assertTrue(refusal.getMessage().startsWith("the certificate of worker " + worker.address()
                    + " is not accepted: set tls.ca.file"), refusal.getMessage());
                assertEquals(0, worker.readCalls.get());
            }
        }
    }

    @Test
    void without_a_certificate_of_its_own_a_broker_cannot_call_a_worker_with_mutual_tls() throws Exception {
        try (ScriptedWorker worker = worker(first, "worker-1", first, 0);
                WalIndexerRemoteStorageManager plugin = Broker.plugin(worker, "tls.enabled", true,
                    "tls.ca.file", first.ca().toString(), "delete.timeout.ms", 1_000L)) {
            Broker broker = new Broker(folder, 1_000);
            RemoteStorageException failure = assertThrows(RemoteStorageException.class,
                () -> plugin.deleteLogSegmentData(broker.attempt()));
            assertTrue(failure.getMessage().contains("UNAVAILABLE"), failure.getMessage());
            assertEquals(0, worker.deleteCalls.get());
        }
    }

    @Test
    void mutual_tls_is_renewed_while_the_plugin_runs() throws Exception {
        Path ca = replace("ca", first.ca());
        Path certificate = replace("certificate", first.certificate("broker-1"));
        Path key = replace("key", first.key("broker-1"));
        Broker broker = new Broker(folder, 1_000_000);
        ScriptedWorker before = worker(first, "worker-1", first, 0);
        try (WalIndexerRemoteStorageManager plugin = Broker.plugin(before, "tls.enabled", true,
                "tls.ca.file", ca.toString(), "tls.cert.file", certificate.toString(), "tls.key.file", key.toString(),
                "copy.timeout.ms", 10_000L)) {
            plugin.copyLogSegmentData(broker.attempt(), broker.data(true));
            assertEquals(1, before.storedCopies());
            int port = before.port();
            before.close();
            replace("ca", second.ca());
            replace("certificate", second.certificate("broker-2"));
            replace("key", second.key("broker-2"));
            try (ScriptedWorker after = worker(second, "worker-2", second, port)) {
                plugin.copyLogSegmentData(broker.attempt(), broker.data(true));
                assertEquals(1, after.storedCopies());
            }
        } finally {
            before.close();
        }
    }

    private Path replace(String name, Path contents) throws Exception {
        Path copy = Files.copy(contents, folder.resolve(name + ".new"));
        return Files.move(copy, folder.resolve(name), StandardCopyOption.ATOMIC_MOVE,
            StandardCopyOption.REPLACE_EXISTING);
    }
}
