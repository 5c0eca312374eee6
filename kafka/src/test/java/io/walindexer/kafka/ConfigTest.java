package io.walindexer.kafka;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Server;
import io.grpc.Status;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import javax.management.MBeanServer;
import javax.management.ObjectName;
import org.apache.kafka.common.config.ConfigException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ConfigTest {
    @TempDir
    Path folder;

    @Test
    void the_defaults_are_those_of_the_readme() throws Exception {
        String readme = Files.readString(Path.of("README.md"));
        PluginConfig.DEFINITION.configKeys().values().forEach(key -> {
            String row = readme.lines().filter(line -> line.startsWith("| `" + key.name + "` |")).findFirst()
                .orElseThrow(() -> new AssertionError("README.md does not have " + key.name));
            String value = key.hasDefault() && key.defaultValue != null ? key.defaultValue.toString() : "";
            assertEquals(value, row.split("\\|")[2].replace("`", "").replace(",", "").trim(), key.name);
        });
    }

    @Test
    void what_kafka_adds_is_accepted() {
        PluginConfig config = PluginConfig.parse(Map.of("workers", "a:1", "broker.id", 7, "node.id", 7));
        assertEquals("7", config.brokerId());
    }

    @Test
    void a_wrong_value_stops_the_start_and_the_message_names_its_key() {
        assertRefused("unknown key \"fetch.parked.maxx\": did you mean \"fetch.parked.max\"?", "fetch.parked.maxx", 1);
        assertRefused("unknown key \"worker\": did you mean \"workers\"?", "worker", "a:1");
        assertRefused("unknown key \"token_file\": did you mean \"token.file\"?", "token_file", "a");
        assertRefused("copy.timeout.ms", "copy.timeout.ms", 0);
        assertRefused("copy.timeout.ms", "copy.timeout.ms", "10 s");
        assertRefused("fetch.parked.max", "fetch.parked.max", -1);
        assertRefused("token.file: the broker cannot read this file", "token.file", folder.resolve("none").toString());
        assertRefused("set tls.enabled=true", "tls.ca.file", "/etc/hostname");
        assertRefused("tls.cert.file and tls.key.file go together", "tls.enabled", true,
            "tls.cert.file", "/etc/hostname");
        for (String workers : new String[] {"", "a", "a:", "a:0", "a:70000", "a:1/x", "http://a:1", "u@a:1", "a b:1"}) {
            assertRefused("workers", "workers", workers);
        }
        ConfigException none = assertThrows(ConfigException.class, () -> PluginConfig.parse(Map.of("broker.id", 1)));
        assertTrue(none.getMessage().contains("\"workers\""), none.getMessage());
    }

    private static void assertRefused(String message, Object... settings) {
        ConfigException refusal = assertThrows(ConfigException.class,
            () -> Broker.plugin(Stream.of("127.0.0.1:1"), settings), message);
        // Kafka's own text says "for configuration KEY: why".
        String text = refusal.getMessage().replaceAll("Invalid value .* for configuration ", "");
        assertTrue(text.contains(message), refusal.getMessage());
    }

    @Test
    void an_ipv6_address_is_in_brackets() {
        assertEquals("::1", Endpoint.parse("[::1]:7070").host());
        assertEquals("[::1]:7070", Endpoint.parse("[::1]:7070").authority());
    }

    @Test
    void files_that_cannot_be_used_stop_the_start() throws Exception {
        Path text = Files.writeString(folder.resolve("text"), "two words");
        assertRefused("token.file: ", "token.file", text.toString());
        assertRefused("the TLS files cannot be used", "tls.enabled", true, "tls.ca.file", text.toString());
    }

    @Test
    void a_worker_that_is_too_old_stops_the_start_and_says_what_to_do() throws Exception {
        Server older = ScriptedWorker.older();
        try {
            ConfigException refusal = assertThrows(ConfigException.class,
                () -> Broker.plugin(Stream.of("127.0.0.1:" + older.getPort())));
            assertTrue(refusal.getMessage().startsWith("worker 127.0.0.1:" + older.getPort()
                + " does not have walindexer.v1.ArchiveService: upgrade it to the release of this plugin"),
                refusal.getMessage());
        } finally {
            older.shutdownNow();
        }
    }

    @Test
    void a_worker_that_refuses_the_broker_stops_the_start_and_the_role_is_named() throws Exception {
        try (ScriptedWorker worker = new ScriptedWorker()) {
            for (Status.Code code : new Status.Code[] {Status.Code.UNAUTHENTICATED, Status.Code.PERMISSION_DENIED}) {
                worker.failures.add(ScriptedWorker.error(code, "ROLE_MISSING", 0));
                ConfigException refusal = assertThrows(ConfigException.class, () -> Broker.plugin(worker));
                assertTrue(refusal.getMessage().contains("set token.file to a token that has the role \"archive\""),
                    refusal.getMessage());
            }
        }
    }

    @Test
    void a_broker_starts_while_its_workers_are_away() throws Exception {
        try (ScriptedWorker present = new ScriptedWorker()) {
            long start = System.nanoTime();
            Broker.plugin(Stream.of("127.0.0.1:1", present.address())).close();
            Broker.plugin(Stream.of("no-such-host.invalid:7070")).close();
            assertEquals(1, present.readCalls.get());
            assertTrue(System.nanoTime() - start < TimeUnit.SECONDS.toNanos(15));
        }
    }

    @Test
    void without_the_check_no_worker_is_called() throws Exception {
        try (ScriptedWorker worker = new ScriptedWorker()) {
            Broker.plugin(worker, "startup.check", false).close();
            assertEquals(0, worker.readCalls.get());
        }
    }

    @Test
    void the_metrics_are_in_jmx_until_the_plugin_is_closed() throws Exception {
        MBeanServer server = ManagementFactory.getPlatformMBeanServer();
        try (ScriptedWorker worker = new ScriptedWorker()) {
            Broker broker = new Broker(folder, 1_000);
            Map<String, Object> config = Broker.config(Stream.of(worker.address()));
            ObjectName name = new ObjectName(PluginMBean.name(config.get("broker.id").toString()));
            WalIndexerRemoteStorageManager plugin = new WalIndexerRemoteStorageManager();
            plugin.configure(config);
            plugin.copyLogSegmentData(broker.attempt(), broker.data(true));
            assertThrows(Exception.class, () -> plugin.fetchLogSegment(broker.attempt(), 0));
            assertEquals(1L, server.getAttribute(name, "copy-total"));
            assertEquals(0L, server.getAttribute(name, "copy-errors-total"));
            assertEquals(1_000L, server.getAttribute(name, "copy-bytes-total"));
            assertEquals(1L, server.getAttribute(name, "fetch-errors-total"));
            assertNotEquals(0, server.getMBeanInfo(name).getAttributes().length);
            plugin.close();
            assertTrue(server.queryNames(name, null).isEmpty());
        }
    }
}
