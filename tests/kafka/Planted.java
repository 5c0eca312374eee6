import java.io.FileOutputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.channels.Channels;
import java.nio.file.Path;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.MemoryRecordsBuilder;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.TimestampType;

/**
 * Writes segments that today's clients do not write, into a partition's directory of a broker that is stopped: messages of
 * magic 0 and 1, and a batch that opens to 300 MB. Argument: the directory.
 */
public final class Planted {
    private static final int MESSAGES = 100;
    private static final int MIB = 1 << 20;

    public static void main(String[] arguments) throws Exception {
        Path directory = Path.of(arguments[0]);
        long time = System.currentTimeMillis();
        try (OutputStream out = segment(directory, 0)) {
            for (int nth = 0; nth < MESSAGES; nth++) {
                write(out, RecordBatch.MAGIC_VALUE_V0, Compression.NONE, nth, 1, RecordBatch.NO_TIMESTAMP, text("zero" + nth));
            }
        }
        try (OutputStream out = segment(directory, MESSAGES)) {
            for (int nth = 0; nth < MESSAGES; nth += 10) {
                Compression codec = nth % 20 == 0 ? Compression.NONE : Compression.gzip().build();
                write(out, RecordBatch.MAGIC_VALUE_V1, codec, MESSAGES + nth, 10, time, text("one" + nth));
            }
        }
        try (OutputStream out = segment(directory, 2 * MESSAGES)) {
            write(out, RecordBatch.MAGIC_VALUE_V2, Compression.zstd().build(), 2 * MESSAGES, 300, time, new byte[MIB]);
        }
        // The one that the broker goes on with.
        segment(directory, 2 * MESSAGES + 300).close();
    }

    private static byte[] text(String word) {
        return ("{\"word\":\"" + word + "\"}").getBytes();
    }

    private static OutputStream segment(Path directory, long baseOffset) throws Exception {
        return new FileOutputStream(directory.resolve(String.format("%020d.log", baseOffset)).toFile());
    }

    private static void write(OutputStream out, byte magic, Compression codec, long offset, int records, long time, byte[] value)
            throws Exception {
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(MIB), magic, codec,
            TimestampType.CREATE_TIME, offset, time, RecordBatch.NO_PRODUCER_ID, RecordBatch.NO_PRODUCER_EPOCH,
            RecordBatch.NO_SEQUENCE, false, false, 0);
        for (int nth = 0; nth < records; nth++) {
            builder.append(time, null, value);
        }
        Channels.newChannel(out).write(builder.build().buffer());
    }
}
