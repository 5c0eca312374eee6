package io.walindexer.kafka;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.apache.kafka.common.config.AbstractConfig;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.ConfigDef.Importance;
import org.apache.kafka.common.config.ConfigDef.Range;
import org.apache.kafka.common.config.ConfigDef.Type;
import org.apache.kafka.common.config.ConfigException;

/** The plugin's configuration. Kafka passes the keys without their prefix, which is {@code rsm.config.}. */
final class PluginConfig extends AbstractConfig {
    static final String WORKERS = "workers";
    static final String TLS_ENABLED = "tls.enabled";
    static final String TLS_CA_FILE = "tls.ca.file";
    static final String TLS_CERT_FILE = "tls.cert.file";
    static final String TLS_KEY_FILE = "tls.key.file";
    static final String TOKEN_FILE = "token.file";
    static final String COPY_TIMEOUT_MS = "copy.timeout.ms";
    static final String FETCH_TIMEOUT_MS = "fetch.timeout.ms";
    static final String INDEX_TIMEOUT_MS = "index.timeout.ms";
    static final String DELETE_TIMEOUT_MS = "delete.timeout.ms";
    static final String FETCH_PARKED_MAX = "fetch.parked.max";
    static final String FETCH_PARKED_IDLE_MS = "fetch.parked.idle.ms";
    static final String FETCH_REPLAY_BYTES = "fetch.replay.bytes";
    static final String STARTUP_CHECK = "startup.check";

    // What Kafka itself adds: broker.id always, node.id in later releases.
    private static final Set<String> KEYS_OF_KAFKA = Set.of("broker.id", "node.id");

    private static final Range TIMEOUT = Range.between(1, 86_400_000);

    static final ConfigDef DEFINITION = new ConfigDef()
        .define(WORKERS, Type.LIST, ConfigDef.NO_DEFAULT_VALUE, new WorkersValidator(), Importance.HIGH,
            "The workers, as host:port. A name stands for all of its addresses.")
        .define(TLS_ENABLED, Type.BOOLEAN, false, Importance.HIGH,
            "Whether connections use TLS.")
        .define(TLS_CA_FILE, Type.STRING, null, Importance.MEDIUM,
            "The authorities of the workers' certificates (PEM). Default: the system's.")
        .define(TLS_CERT_FILE, Type.STRING, null, Importance.MEDIUM,
            "The broker's own certificate (PEM), for workers that ask for one.")
        .define(TLS_KEY_FILE, Type.STRING, null, Importance.MEDIUM,
            "The key of the broker's own certificate (PEM, PKCS #8).")
        .define(TOKEN_FILE, Type.STRING, null, Importance.MEDIUM,
            "A file with the bearer token. It needs the role \"archive\".")
        .define(COPY_TIMEOUT_MS, Type.LONG, 600_000L, TIMEOUT, Importance.MEDIUM,
            "The time for one copy, with all attempts.")
        .define(FETCH_TIMEOUT_MS, Type.LONG, 60_000L, TIMEOUT, Importance.MEDIUM,
            "The time to open a segment, with all attempts, and the longest wait for more of its bytes.")
        .define(INDEX_TIMEOUT_MS, Type.LONG, 60_000L, TIMEOUT, Importance.MEDIUM,
            "The time to fetch one index, with all attempts.")
        .define(DELETE_TIMEOUT_MS, Type.LONG, 30_000L, TIMEOUT, Importance.MEDIUM,
            "The time for one deletion, with all attempts.")
        .define(FETCH_PARKED_MAX, Type.INT, 16, Range.between(0, 10_000), Importance.LOW,
            "How many streams are kept open for a fetch that goes on where the last one stopped. 0: none.")
        .define(FETCH_PARKED_IDLE_MS, Type.LONG, 30_000L, TIMEOUT, Importance.LOW,
            "How long a stream is kept open without a fetch.")
        .define(FETCH_REPLAY_BYTES, Type.INT, 2 << 20, Range.between(0, 1 << 30), Importance.LOW,
            "How far behind the end of the last fetch the next one may start on a kept stream.")
        .define(STARTUP_CHECK, Type.BOOLEAN, true, Importance.LOW,
            "Whether the workers are called when the broker starts, so that errors show before the first copy.");

    private PluginConfig(Map<String, ?> values) {
        super(DEFINITION, values, false);
    }

    /** Validates everything that can be known without a call. */
    static PluginConfig parse(Map<String, ?> values) {
        refuseUnknownKeys(values.keySet());
        PluginConfig config = new PluginConfig(values);
        config.checkTls();
        config.checkReadable(TLS_CA_FILE);
        config.checkReadable(TLS_CERT_FILE);
        config.checkReadable(TLS_KEY_FILE);
        config.checkReadable(TOKEN_FILE);
        return config;
    }

    List<Endpoint> workers() {
        return getList(WORKERS).stream().map(Endpoint::parse).distinct().collect(Collectors.toList());
    }

    /** Kafka's id of the broker, for the names of metrics. */
    String brokerId() {
        Object id = originals().get("broker.id");
        return id == null ? "" : id.toString();
    }

    private void checkTls() {
        for (String key : List.of(TLS_CA_FILE, TLS_CERT_FILE, TLS_KEY_FILE)) {
            if (getString(key) != null && !getBoolean(TLS_ENABLED)) {
                throw new ConfigException(key + " is set, but connections do not use TLS: set "
                    + TLS_ENABLED + "=true");
            }
        }
        if ((getString(TLS_CERT_FILE) == null) != (getString(TLS_KEY_FILE) == null)) {
            throw new ConfigException(TLS_CERT_FILE + " and " + TLS_KEY_FILE + " go together: set both or none");
        }
    }

    private void checkReadable(String key) {
        String path = getString(key);
        if (path != null && !(Files.isRegularFile(Path.of(path)) && Files.isReadable(Path.of(path)))) {
            throw new ConfigException(key, path, "the broker cannot read this file");
        }
    }

    private static void refuseUnknownKeys(Set<String> keys) {
        for (String key : new TreeSet<>(keys)) {
            if (!DEFINITION.names().contains(key) && !KEYS_OF_KAFKA.contains(key)) {
                throw new ConfigException("unknown key \"" + key + "\": did you mean \"" + nearest(key)
                    + "\"? All keys: " + String.join(", ", new TreeSet<>(DEFINITION.names())));
            }
        }
    }

    private static String nearest(String key) {
        return DEFINITION.names().stream().sorted()
            .min((a, b) -> Integer.compare(distance(key, a), distance(key, b))).orElseThrow();
    }

    /** Levenshtein's distance. */
    static int distance(String a, String b) {
        int[] row = new int[b.length() + 1];
        for (int j = 0; j <= b.length(); j++) {
            row[j] = j;
        }
        for (int i = 1; i <= a.length(); i++) {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.length(); j++) {
                int substitution = diagonal + (a.charAt(i - 1) == b.charAt(j - 1) ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.min(substitution, 1 + Math.min(row[j], row[j - 1]));
            }
        }
        return row[b.length()];
    }

    private static final class WorkersValidator implements ConfigDef.Validator {
        @Override
        public void ensureValid(String name, Object value) {
            List<?> workers = (List<?>) value;
            if (workers == null || workers.isEmpty()) {
                throw new ConfigException(name, value, "name at least one worker, as host:port");
            }
            for (Object worker : workers) {
                try {
                    Endpoint.parse((String) worker);
                } catch (IllegalArgumentException e) {
                    throw new ConfigException(name, value, e.getMessage());
                }
            }
        }

        @Override
        public String toString() {
            return "a list of host:port";
        }
    }
}
