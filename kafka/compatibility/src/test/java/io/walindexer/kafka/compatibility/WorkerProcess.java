package io.walindexer.kafka.compatibility;

import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Stream;
import org.apache.kafka.test.TestUtils;

/**
 * A worker on an empty directory: the program that {@code WAL_INDEXER_TEST_BINARY} names, or else the release build.
 * All tests share one, which ends with the tests. What it logs is in {@code target/worker.log}.
 */
final class WorkerProcess {
    private static final String GREETING = "listening on ";

    private static WorkerProcess shared;

    private final Path store;
    private final String address;

    private WorkerProcess(Path store, String address) {
        this.store = store;
        this.address = address;
    }

    static synchronized WorkerProcess shared() {
        if (shared == null) {
            try {
                shared = start(TestUtils.tempDirectory("wal-indexer-store-").toPath());
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
        return shared;
    }

    /** {@code HOST:PORT}. */
    String address() {
        return address;
    }

    /** How many bundles the store has, hidden ones as well. */
    long bundles() {
        try (Stream<Path> files = Files.walk(store)) {
            return files.filter(file -> file.toString().endsWith(".tar")).count();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static WorkerProcess start(Path store) throws IOException {
        ProcessBuilder serve = new ProcessBuilder(program(), "serve", "--listen", "127.0.0.1:0", "--store",
            store.toUri().toString()).redirectError(Path.of("target", "worker.log").toFile());
        serve.environment().keySet().removeIf(name -> name.startsWith("WAL_INDEXER_") || name.startsWith("OTEL_"));
        Process process = serve.start();
        Runtime.getRuntime().addShutdownHook(new Thread(process::destroy));
        String line = process.inputReader().readLine();
        if (line == null || !line.startsWith(GREETING)) {
            throw new IllegalStateException("the worker does not start: " + line + ", see target/worker.log");
        }
        return new WorkerProcess(store, line.substring(GREETING.length()));
    }

    private static String program() {
        String named = System.getenv("WAL_INDEXER_TEST_BINARY");
        return named != null ? named
            : new File(System.getProperty("repository"), "target/release/wal-indexer").getPath();
    }
}
