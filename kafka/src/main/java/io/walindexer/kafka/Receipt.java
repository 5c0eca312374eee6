package io.walindexer.kafka;

import io.walindexer.kafka.v1.Archive.Attachment;
import io.walindexer.kafka.v1.Archive.CopySegmentResponse;
import io.walindexer.kafka.v1.Archive.SegmentName;
import io.walindexer.kafka.v1.Indexer.IndexSegmentResponse;
import io.walindexer.kafka.v1.Indexer.IndexedPartition;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** The comparison of a reply with what was sent. Only a reply that passes it is a receipt. */
final class Receipt {
    private Receipt() {
    }

    static void check(CopySegmentResponse reply, Segment segment, SentPart sentSegment, List<SentPart> sentAttachments)
            throws ReceiptException {
        IndexSegmentResponse receipt = reply.getReceipt();
        sentSegment.check(receipt.getBytesRead(), receipt.getCrc32C());
        if (receipt.getPartitionsCount() != 1) {
            throw new ReceiptException("the receipt has " + receipt.getPartitionsCount() + " partitions, not one");
        }
        checkPartition(receipt.getPartitions(0), segment.name());
        checkAttachments(reply.getAttachmentsList(), sentAttachments);
    }

    private static void checkPartition(IndexedPartition partition, SegmentName name) throws ReceiptException {
        if (!partition.getTopic().equals(name.getTopic()) || partition.getPartition() != name.getPartition()
                || !partition.getLogId().equals(name.getLogId())) {
            throw new ReceiptException("the receipt is for " + partition.getTopic() + ":" + partition.getPartition()
                + " of the log " + partition.getLogId() + ", not for " + name.getTopic() + ":" + name.getPartition()
                + " of the log " + name.getLogId());
        }
        if (partition.getBundle().getKey().isEmpty()) {
            throw new ReceiptException("the receipt names no bundle");
        }
    }

    private static void checkAttachments(List<Attachment> replied, List<SentPart> sent) throws ReceiptException {
        Map<String, Attachment> byName = new HashMap<>();
        replied.forEach(attachment -> byName.put(attachment.getName(), attachment));
        if (replied.size() != sent.size() || byName.size() != sent.size()) {
            throw new ReceiptException("the receipt has the attachments " + byName.keySet() + ", " + sent.size()
                + " were sent");
        }
        for (SentPart part : sent) {
            Attachment attachment = byName.get(part.name());
            if (attachment == null || !attachment.hasCrc32C()) {
                throw new ReceiptException("the receipt has no checksum of the attachment " + part.name());
            }
            part.check(attachment.getSizeBytes(), attachment.getCrc32C());
        }
    }
}
