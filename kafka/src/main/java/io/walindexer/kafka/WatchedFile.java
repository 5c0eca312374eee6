package io.walindexer.kafka;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;

/** A file that may be replaced while the broker runs. It counts as changed by its time, size or identity. */
final class WatchedFile {
    private final Path path;
    private Object seen;

    WatchedFile(String path) {
        this.path = Path.of(path);
    }

    Path path() {
        return path;
    }

    /** Whether the file differs from the one that the last call of {@link #markSeen} was about. */
    boolean hasChanged() throws IOException {
        return !version().equals(seen);
    }

    /** The file's version now. Take it before the contents are read, so that a later change is seen. */
    Object version() throws IOException {
        BasicFileAttributes attributes = Files.readAttributes(path, BasicFileAttributes.class);
        return attributes.lastModifiedTime() + " " + attributes.size() + " " + attributes.fileKey();
    }

    void markSeen(Object version) {
        seen = version;
    }
}
