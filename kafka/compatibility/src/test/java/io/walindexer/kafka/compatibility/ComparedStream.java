package io.walindexer.kafka.compatibility;

import java.io.IOException;
import java.io.InputStream;
import java.util.Arrays;

/** The plugin's bytes, each compared with the expected one before the broker gets it. */
final class ComparedStream extends InputStream {
    private final String what;
    private final InputStream actual;
    private final InputStream expected;
    private final Operations operations;
    private long position;

    ComparedStream(String what, InputStream actual, InputStream expected, Operations operations) {
        this.what = what;
        this.actual = actual;
        this.expected = expected;
        this.operations = operations;
    }

    @Override
    public int read() throws IOException {
        byte[] one = new byte[1];
        return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
    }

    @Override
    public int read(byte[] target, int offset, int length) throws IOException {
        int count = readActual(target, offset, length);
        if (count < 0) {
            if (expected.read() >= 0) {
                throw differs("ends too early");
            }
            return count;
        }
        byte[] compared = expected.readNBytes(count);
        if (!Arrays.equals(compared, 0, compared.length, target, offset, offset + count)) {
            throw differs("has other bytes");
        }
        position += count;
        operations.bytes.addAndGet(count);
        return count;
    }

    @Override
    public void close() throws IOException {
        try (expected) {
            actual.close();
        }
    }

    private int readActual(byte[] target, int offset, int length) throws IOException {
        try {
            return actual.read(target, offset, length);
        } catch (IOException e) {
            if (!Thread.currentThread().isInterrupted()) {
                operations.differs(what + " fails after " + position + " bytes: " + e);
            }
            throw e;
        }
    }

    private IOException differs(String how) {
        String difference = what + " " + how + " after " + position + " bytes";
        operations.differs(difference);
        return new IOException(difference);
    }
}
