package io.walindexer.kafka;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.DataInputStream;
import java.io.File;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The jar that brokers load. */
class ShadedJarIT {
    private static final int JAVA_11 = 55;
    private static final String JAR = System.getProperty("shaded.jar");

    /** The packages of libraries, and their names in THIRD-PARTY.txt. */
    private static final Map<String, String> NAMED = Map.of(
        "io.grpc", "grpc-api", "io.perfmark", "perfmark-api", "common", "com.google.guava:guava",
        "thirdparty", "com.google.guava:guava", "gson", "com.google.code.gson:gson",
        "protobuf", "protobuf-javalite", "okio", "com.squareup.okio", "kotlin", "kotlin-stdlib");

    @TempDir
    Path folder;

    @Test
    void the_bytecode_is_for_java_11() throws Exception {
        int classes = 0;
        try (JarFile jar = new JarFile(JAR)) {
            for (JarEntry entry : Collections.list(jar.entries())) {
                if (entry.getName().endsWith(".class")) {
                    DataInputStream bytes = new DataInputStream(jar.getInputStream(entry));
                    assertEquals(0xCAFEBABE, bytes.readInt(), entry.getName());
                    bytes.readUnsignedShort();
                    int major = bytes.readUnsignedShort();
                    assertTrue(major <= JAVA_11, entry.getName() + " has the version " + major);
                    classes++;
                }
            }
        }
        assertTrue(classes > 1_000, classes + " classes");
    }

    @Test
    void lesson_42_nothing_in_it_can_clash_with_the_brokers_own_classes() throws Exception {
        List<String> names = new ArrayList<>();
        try (JarFile jar = new JarFile(JAR)) {
            for (JarEntry entry : Collections.list(jar.entries())) {
                if (!entry.isDirectory()) {
                    names.add(entry.getName());
                }
            }
        }
        List<String> others = names.stream()
            .filter(name -> !name.startsWith("io/walindexer/kafka/"))
            .filter(name -> !name.startsWith("META-INF/services/io.walindexer.kafka.shaded."))
            .filter(name -> !Set.of("META-INF/MANIFEST.MF", "META-INF/LICENSE", "META-INF/THIRD-PARTY.txt").contains(name))
            .collect(Collectors.toList());
        assertEquals(List.of(), others);
        assertTrue(names.stream().noneMatch(name -> name.contains("slf4j") || name.contains("apache/kafka")));
        assertTrue(names.contains("io/walindexer/kafka/MonitorableWalIndexerRemoteStorageManager.class"));
        assertTrue(names.contains("io/walindexer/kafka/shaded/io/grpc/ManagedChannel.class"));
    }

    @Test
    void the_licences_of_all_libraries_are_in_it() throws Exception {
        Set<String> libraries = new TreeSet<>();
        String licences;
        try (JarFile jar = new JarFile(JAR)) {
            for (JarEntry entry : Collections.list(jar.entries())) {
                String inside = entry.getName().replaceFirst("^io/walindexer/kafka/shaded/", "");
                if (!inside.equals(entry.getName()) && inside.endsWith(".class")) {
                    String[] packages = inside.split("/");
                    libraries.add(packages[0].equals("com") ? packages[2] : packages[0] + "." + packages[1]);
                }
            }
            InputStream text = jar.getInputStream(jar.getEntry("META-INF/THIRD-PARTY.txt"));
            licences = new String(text.readAllBytes(), StandardCharsets.UTF_8);
            assertNotNull(jar.getEntry("META-INF/LICENSE"));
        }
        libraries.removeIf(library -> {
            String name = NAMED.get(library.replaceFirst("^(okio|kotlin)\\..*", "$1"));
            return name != null && licences.contains(name);
        });
        assertEquals(Set.of(), libraries, "in the jar, and not in THIRD-PARTY.txt");
    }

    @Test
    void it_works_in_kafka_3_9() throws Exception {
        assertEquals(expected(0, "RemoteStorageException"),
            probe("WalIndexerRemoteStorageManager", kafkaOfTheTests()));
    }

    @Test
    void it_works_in_the_newest_kafka_with_its_metrics_and_its_retriable_exception() throws Exception {
        assumeTrue(Runtime.version().feature() >= 17, "Kafka 4 needs Java 17");
        assertEquals(expected(countOfMetrics(), "RetriableRemoteStorageException"),
            probe("MonitorableWalIndexerRemoteStorageManager", newestKafka()));
    }

    @Test
    void the_plain_class_works_in_the_newest_kafka() throws Exception {
        assumeTrue(Runtime.version().feature() >= 17, "Kafka 4 needs Java 17");
        assertEquals(expected(0, "RetriableRemoteStorageException"),
            probe("WalIndexerRemoteStorageManager", newestKafka()));
    }

    /** Lesson 34: after a copy that fails, Kafka cleans up only if the exception is not the retriable one. */
    private static List<String> expected(int metrics, String deletion) {
        return List.of("same bytes: true", "metrics: " + metrics, "a copy without a worker: RemoteStorageException",
            "a deletion without a worker: " + deletion);
    }

    private static int countOfMetrics() throws Exception {
        try (ScriptedWorker worker = new ScriptedWorker();
                WalIndexerRemoteStorageManager plugin = Broker.plugin(worker)) {
            return plugin.metrics().size();
        }
    }

    private static List<String> kafkaOfTheTests() {
        return Arrays.stream(System.getProperty("java.class.path").split(File.pathSeparator))
            .filter(path -> path.contains("kafka-") && path.endsWith(".jar") || path.contains("slf4j-"))
            .filter(path -> !path.contains("wal-indexer-kafka"))
            .collect(Collectors.toList());
    }

    private static List<String> newestKafka() {
        List<String> jars = new ArrayList<>(List.of(new File(System.getProperty("kafka.newest")).list()));
        assertEquals(2, jars.size(), jars.toString());
        jars.replaceAll(name -> System.getProperty("kafka.newest") + File.separator + name);
        kafkaOfTheTests().stream().filter(path -> path.contains("slf4j-")).forEach(jars::add);
        return jars;
    }

    // The folder of the test classes is last, and the probe refers to nothing in it but itself.
    private List<String> probe(String className, List<String> kafka) throws Exception {
        new Broker(folder, 3_000_000);
        try (ScriptedWorker worker = new ScriptedWorker()) {
            List<String> path = new ArrayList<>(kafka);
            path.add(JAR);
            path.add(System.getProperty("test.classes"));
            Process process = new ProcessBuilder(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(), "-cp",
                String.join(File.pathSeparator, path), "-Xmx256m", "io.walindexer.probe.JarProbe",
                "io.walindexer.kafka." + className, worker.address(), folder.toString())
                .redirectError(ProcessBuilder.Redirect.INHERIT).start();
            String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            assertTrue(process.waitFor(30, TimeUnit.SECONDS));
            return output.lines().filter(line -> !line.contains(" WARN ")).collect(Collectors.toList());
        }
    }
}
