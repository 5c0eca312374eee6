package io.walindexer.kafka;

/** What was read and sent of one part of a copy. */
final class SentPart {
    private final String name;
    private final long sizeBytes;
    private final int crc32c;

    SentPart(String name, long sizeBytes, int crc32c) {
        this.name = name;
        this.sizeBytes = sizeBytes;
        this.crc32c = crc32c;
    }

    String name() {
        return name;
    }

    /** Fails unless the worker says the same. */
    void check(long repliedSizeBytes, int repliedCrc32c) throws ReceiptException {
        if (repliedSizeBytes != sizeBytes) {
            throw new ReceiptException("the worker read " + Long.toUnsignedString(repliedSizeBytes) + " bytes of the "
                + name + ", " + sizeBytes + " were sent");
        }
        if (repliedCrc32c != crc32c) {
            throw new ReceiptException(String.format("the worker's CRC-32C of the %s is %08x, that of the bytes read"
                + " is %08x", name, repliedCrc32c, crc32c));
        }
    }
}
