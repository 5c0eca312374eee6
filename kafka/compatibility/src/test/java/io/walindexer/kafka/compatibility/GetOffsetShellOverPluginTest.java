package io.walindexer.kafka.compatibility;

import java.lang.reflect.Method;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.kafka.common.test.ClusterInstance;
import org.apache.kafka.common.test.api.ClusterConfig;
import org.apache.kafka.common.test.api.ClusterTemplate;
import org.apache.kafka.server.log.remote.storage.RemoteLogManagerConfig;
import org.apache.kafka.tools.GetOffsetShellTest;

/** Kafka's tests of the tool that lists offsets, as far as they are about tiered topics. */
class GetOffsetShellOverPluginTest {
    private final GetOffsetShellTest kafkas;

    GetOffsetShellOverPluginTest(ClusterInstance cluster) {
        kafkas = new GetOffsetShellTest(cluster);
    }

    @ClusterTemplate("withRemoteStorage")
    void testGetOffsetsByEarliestLocalSpec() throws Exception {
        kafkas.testGetOffsetsByEarliestLocalSpec();
    }

    @ClusterTemplate("withRemoteStorage")
    void testGetOffsetsByLatestTieredSpec() throws Exception {
        kafkas.testGetOffsetsByLatestTieredSpec();
    }

    @ClusterTemplate("withRemoteStorage")
    void testGetOffsetsByEarliestTieredSpec() throws Exception {
        kafkas.testGetOffsetsByEarliestTieredSpec();
    }

    /** The configurations of Kafka's test, with the plugin. */
    static List<ClusterConfig> withRemoteStorage() throws ReflectiveOperationException {
        Method ofKafka = GetOffsetShellTest.class.getDeclaredMethod("withRemoteStorage");
        ofKafka.setAccessible(true);
        return ((List<?>) ofKafka.invoke(null)).stream().map(config -> withPlugin((ClusterConfig) config))
            .collect(Collectors.toList());
    }

    private static ClusterConfig withPlugin(ClusterConfig config) {
        Map<String, String> properties = new HashMap<>(config.serverProperties());
        properties.put(RemoteLogManagerConfig.REMOTE_STORAGE_MANAGER_CLASS_NAME_PROP, ComparedStorage.class.getName());
        return ClusterConfig.builder(config).setServerProperties(properties).build();
    }
}
