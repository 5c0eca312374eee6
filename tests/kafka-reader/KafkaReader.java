import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HexFormat;

import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.MutableRecordBatch;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.utils.BufferSupplier;
import org.apache.kafka.common.utils.CloseableIterator;

/**
 * Reads log segments as Kafka's consumer does, each from standard input behind its length, and says of each on a line what it holds: the number of
 * records and the SHA-256 of them all, or the exception.
 */
public final class KafkaReader {
    public static void main(String[] arguments) throws Exception {
        DataInputStream in = new DataInputStream(new BufferedInputStream(System.in, 1 << 20));
        PrintStream out = new PrintStream(new BufferedOutputStream(System.out, 1 << 16), false);
        while (true) {
            byte[] segment;
            try {
                segment = new byte[in.readInt()];
            } catch (EOFException end) {
                break;
            }
            in.readFully(segment);
            String said;
            try {
                said = read(segment);
            } catch (Throwable error) {
                said = "no " + error.getClass().getSimpleName() + ": " + String.valueOf(error.getMessage()).replace('\n', ' ');
            }
            out.println(said);
            out.flush();
        }
    }

    /** As the consumer's CompletedFetch does it, with check.crcs. */
    private static String read(byte[] segment) throws Exception {
        MessageDigest hash = MessageDigest.getInstance("SHA-256");
        int records = 0;
        for (MutableRecordBatch batch : MemoryRecords.readableRecords(ByteBuffer.wrap(segment)).batches()) {
            batch.ensureValid();
            try (CloseableIterator<Record> iterator = batch.streamingIterator(BufferSupplier.NO_CACHING)) {
                while (iterator.hasNext()) {
                    Record record = iterator.next();
                    record.ensureValid();
                    hash.update(bytes(record));
                    records++;
                }
            }
        }
        return "ok " + records + " " + HexFormat.of().formatHex(hash.digest());
    }

    private static byte[] bytes(Record record) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(bytes);
        out.writeLong(record.offset());
        out.writeLong(record.timestamp());
        put(out, record.hasKey() ? record.key() : null);
        put(out, record.hasValue() ? record.value() : null);
        out.writeInt(record.headers().length);
        for (Header header : record.headers()) {
            put(out, ByteBuffer.wrap(header.key().getBytes(StandardCharsets.UTF_8)));
            put(out, header.value() == null ? null : ByteBuffer.wrap(header.value()));
        }
        return bytes.toByteArray();
    }

    private static void put(DataOutputStream out, ByteBuffer part) throws IOException {
        if (part == null) {
            out.writeInt(-1);
            return;
        }
        byte[] copy = new byte[part.remaining()];
        part.get(copy);
        out.writeInt(copy.length);
        out.write(copy);
    }
}
