package io.walindexer.kafka;

/** A reply that does not say what was sent. It is not a receipt, so the segment must be kept. */
final class ReceiptException extends Exception {
    private static final long serialVersionUID = 1L;

    ReceiptException(String message) {
        super(message);
    }
}
