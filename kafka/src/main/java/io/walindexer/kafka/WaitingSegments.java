package io.walindexer.kafka;

import java.io.IOException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Map;
import java.util.NavigableMap;
import java.util.TreeMap;

/** The sealed segments of a partition's directory that are not copied yet. */
final class WaitingSegments {
    private static final String ENDING = ".log";
    private static final int OFFSET_DIGITS = 20;

    private final long bytes;
    private final long segments;
    private final long sealedAtMs;

    private WaitingSegments(long bytes, long segments, long sealedAtMs) {
        this.bytes = bytes;
        this.segments = segments;
        this.sealedAtMs = sealedAtMs;
    }

    /** Those from an offset on, in the directory of {@code copied}, which is a segment that Kafka has sealed. */
    static WaitingSegments from(Path copied, long nextOffset) throws IOException {
        NavigableMap<Long, Path> all = new TreeMap<>();
        try (DirectoryStream<Path> files = Files.newDirectoryStream(copied.toAbsolutePath().getParent(), "*" + ENDING)) {
            for (Path file : files) {
                String name = file.getFileName().toString();
                if (name.length() == OFFSET_DIGITS + ENDING.length()) {
                    all.put(Long.parseLong(name.substring(0, OFFSET_DIGITS)), file);
                }
            }
        }
        // Kafka writes to the last one.
        if (!all.isEmpty() && !all.lastEntry().getValue().getFileName().equals(copied.getFileName())) {
            all.pollLastEntry();
        }
        long bytes = 0;
        long segments = 0;
        long sealedAtMs = 0;
        for (Map.Entry<Long, Path> one : all.tailMap(nextOffset, true).entrySet()) {
            try {
                bytes += Files.size(one.getValue());
                sealedAtMs = segments == 0 ? Files.getLastModifiedTime(one.getValue()).toMillis() : sealedAtMs;
                segments++;
            } catch (NoSuchFileException e) {
                // Retention was faster.
                continue;
            }
        }
        return new WaitingSegments(bytes, segments, sealedAtMs);
    }

    long bytes() {
        return bytes;
    }

    long segments() {
        return segments;
    }

    /** When the first of them was written to last. */
    long sealedAtMs() {
        return sealedAtMs;
    }
}
