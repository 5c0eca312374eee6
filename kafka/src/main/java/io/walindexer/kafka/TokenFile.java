package io.walindexer.kafka;

import io.grpc.Metadata;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The bearer token of each call, from a file that is looked at again at most once a second. */
final class TokenFile implements Supplier<Metadata> {
    private static final Logger LOG = LoggerFactory.getLogger(TokenFile.class);
    private static final Metadata.Key<String> AUTHORIZATION =
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    private static final long CHECK_EVERY_NANOS = TimeUnit.SECONDS.toNanos(1);

    private final WatchedFile file;
    private String token;
    private long checkedNanos;
    private boolean failing;

    /** Reads the token. */
    TokenFile(String path) throws IOException {
        file = new WatchedFile(path);
        read();
        checkedNanos = System.nanoTime();
    }

    /** The headers of one call. */
    @Override
    public Metadata get() {
        Metadata headers = new Metadata();
        headers.put(AUTHORIZATION, "Bearer " + token());
        return headers;
    }

    private synchronized String token() {
        long now = System.nanoTime();
        if (now - checkedNanos >= CHECK_EVERY_NANOS) {
            checkedNanos = now;
            try {
                if (file.hasChanged()) {
                    read();
                }
                failing = false;
            } catch (IOException e) {
                if (!failing) {
                    LOG.error("cannot read token.file, so its last token is used: {}", e.toString());
                }
                failing = true;
            }
        }
        return token;
    }

    private void read() throws IOException {
        Object version = file.version();
        String read = Files.readString(file.path(), StandardCharsets.US_ASCII).trim();
        if (read.isEmpty() || !read.chars().allMatch(c -> c > ' ' && c < 0x7f)) {
            throw new IOException(file.path() + " must hold one token of visible ASCII characters");
        }
        token = read;
        file.markSeen(version);
    }
}
