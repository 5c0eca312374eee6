package io.walindexer.kafka.compatibility;

import java.io.File;
import org.apache.kafka.common.utils.ChildFirstClassLoader;
import org.apache.kafka.server.log.remote.storage.ClassLoaderAwareRemoteStorageManager;
import org.apache.kafka.server.log.remote.storage.RemoteStorageManager;

/** The plugin's jar: the one that {@code WAL_INDEXER_TEST_KAFKA_JAR} names, or else the one in {@code kafka/target}. */
final class PluginJar {
    private static final String CLASS_NAME = "io.walindexer.kafka.WalIndexerRemoteStorageManager";

    private PluginJar() {
    }

    /** Loads the plugin as a broker does with {@code remote.log.storage.manager.class.path}. */
    static RemoteStorageManager load() {
        ClassLoader classes = new ChildFirstClassLoader(path().toString(), PluginJar.class.getClassLoader());
        try {
            Object plugin = classes.loadClass(CLASS_NAME).getConstructor().newInstance();
            if (plugin.getClass().getClassLoader() != classes) {
                throw new IllegalStateException("the plugin is not from its jar");
            }
            return new ClassLoaderAwareRemoteStorageManager((RemoteStorageManager) plugin, classes);
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException("the plugin cannot be loaded", e);
        }
    }

    private static File path() {
        String named = System.getenv("WAL_INDEXER_TEST_KAFKA_JAR");
        if (named != null) {
            return new File(named);
        }
        File[] built = new File(System.getProperty("repository"), "kafka/target")
            .listFiles((folder, name) -> name.startsWith("wal-indexer-kafka-") && name.endsWith(".jar"));
        if (built == null || built.length != 1) {
            throw new IllegalStateException("there must be one jar of the plugin in kafka/target: run make kafka");
        }
        return built[0];
    }
}
