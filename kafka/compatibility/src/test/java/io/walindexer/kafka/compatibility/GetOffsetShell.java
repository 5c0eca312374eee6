package io.walindexer.kafka.compatibility;

import java.lang.reflect.Method;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.kafka.common.test.ClusterInstance;
import org.apache.kafka.common.test.api.ClusterConfig;
import org.apache.kafka.server.log.remote.storage.RemoteLogManagerConfig;
import org.apache.kafka.tools.GetOffsetShellTest;

/**
 * Kafka's tests of the tool that lists offsets. Only those with tiered storage are run, which {@code pom.xml} names.
 */
class GetOffsetShell extends GetOffsetShellTest {
    GetOffsetShell(ClusterInstance cluster) {
        super(cluster);
    }

    /** Called by Kafka's extension of JUnit instead of the method of this name in Kafka's class. */
    static List<ClusterConfig> withRemoteStorage() throws ReflectiveOperationException {
        Method kafkas = GetOffsetShellTest.class.getDeclaredMethod("withRemoteStorage");
        kafkas.setAccessible(true);
        return ((List<?>) kafkas.invoke(null)).stream().map(config -> withPlugin((ClusterConfig) config))
            .collect(Collectors.toList());
    }

    private static ClusterConfig withPlugin(ClusterConfig config) {
        Map<String, String> properties = new HashMap<>(config.serverProperties());
        properties.put(RemoteLogManagerConfig.REMOTE_STORAGE_MANAGER_CLASS_NAME_PROP, ComparedStorage.class.getName());
        return ClusterConfig.builder(config).setServerProperties(properties).build();
    }
}
