package io.walindexer.kafka.compatibility;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.reflect.Field;
import java.util.List;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import kafka.integration.KafkaServerTestHarness;
import kafka.server.KafkaConfig;
import org.apache.kafka.server.log.remote.storage.LocalTieredStorage;
import org.apache.kafka.server.log.remote.storage.RemoteLogManagerConfig;
import org.apache.kafka.test.TestUtils;
import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.BeforeEachCallback;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ExtensionContext.Namespace;
import org.junit.platform.commons.support.HierarchyTraversalMode;
import org.junit.platform.commons.support.ReflectionSupport;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import scala.jdk.javaapi.CollectionConverters;

/**
 * The JUnit extension that lets the brokers of each of Kafka's tests keep their segments with the plugin, and that
 * fails a test if they did not. JUnit finds it in {@code META-INF/services}.
 */
public final class OverPlugin implements BeforeEachCallback, AfterEachCallback {
    private static final Logger LOG = LoggerFactory.getLogger(OverPlugin.class);
    private static final Namespace NAMESPACE = Namespace.create(OverPlugin.class);

    /** Called by JUnit. */
    public OverPlugin() {
    }

    /** A {@link KafkaServerTestHarness} makes its brokers' configurations only if there are none yet. */
    @Override
    public void beforeEach(ExtensionContext context) throws IllegalAccessException {
        Object test = context.getRequiredTestInstance();
        if (test instanceof ComparedStorageTest) {
            return;
        }
        context.getStore(NAMESPACE).put(Operations.class, Operations.begin());
        context.getStore(NAMESPACE).put("bundles", WorkerProcess.shared().bundles());
        if (test instanceof KafkaServerTestHarness) {
            KafkaServerTestHarness harness = (KafkaServerTestHarness) test;
            setStorageDirectory(test, TestUtils.tempDirectory("kafka-remote-tier-").getPath());
            List<KafkaConfig> configs = CollectionConverters.asJava(harness.generateConfigs()).stream()
                .map(OverPlugin::withPlugin).collect(Collectors.toList());
            harness.instanceConfigs_$eq(CollectionConverters.asScala(configs));
        }
    }

    /** The brokers have stopped. */
    @Override
    public void afterEach(ExtensionContext context) {
        Operations operations = context.getStore(NAMESPACE).get(Operations.class, Operations.class);
        if (operations == null) {
            return;
        }
        LOG.info("{} {}: {}", context.getRequiredTestClass().getSimpleName(), context.getDisplayName(), operations);
        assertEquals(List.of(), operations.differences(), "what the plugin did otherwise than Kafka's storage");
        if (context.getExecutionException().isPresent()) {
            return;
        }
        assertEquals(brokers(context.getRequiredTestInstance()), operations.brokers(), "the brokers with the plugin");
        long bundles = WorkerProcess.shared().bundles() - context.getStore(NAMESPACE).get("bundles", Long.class);
        assertTrue(bundles >= operations.copies.get(), bundles + " bundles in the worker's store: " + operations);
        Expected.of(context).forEach(expected -> assertTrue(expected.isIn(operations), expected + ": " + operations));
    }

    // The test itself sets it too late.
    private static void setStorageDirectory(Object test, String directory) throws IllegalAccessException {
        List<Field> fields = ReflectionSupport.findFields(test.getClass(),
            field -> field.getName().equals("storageDirPath"), HierarchyTraversalMode.TOP_DOWN);
        assertEquals(1, fields.size(), "the field with the directory of Kafka's storage");
        fields.get(0).setAccessible(true);
        fields.get(0).set(test, directory);
    }

    private static KafkaConfig withPlugin(KafkaConfig config) {
        Properties properties = new Properties();
        properties.putAll(config.originals());
        Object replaced = properties.put(RemoteLogManagerConfig.REMOTE_STORAGE_MANAGER_CLASS_NAME_PROP,
            ComparedStorage.class.getName());
        assertEquals(LocalTieredStorage.class.getName(), replaced, "the storage that the test is written for");
        return KafkaConfig.fromProps(properties);
    }

    private static Set<Integer> brokers(Object test) {
        if (!(test instanceof KafkaServerTestHarness)) {
            // The one broker of GetOffsetShellOverPluginTest.
            return Set.of(0);
        }
        return CollectionConverters.asJava(((KafkaServerTestHarness) test).configs()).stream()
            .map(KafkaConfig::brokerId).collect(Collectors.toCollection(TreeSet::new));
    }
}
