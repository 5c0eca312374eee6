import com.sun.tools.attach.VirtualMachine;
import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.Future;
import javax.management.MBeanAttributeInfo;
import javax.management.MBeanServerConnection;
import javax.management.ObjectName;
import javax.management.remote.JMXConnector;
import javax.management.remote.JMXConnectorFactory;
import javax.management.remote.JMXServiceURL;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Does what tests of tiered storage ask for, one line of standard input after the other: creates, changes and deletes
 * topics, writes records, asks for offsets. It answers each line with lines of its own, then with {@code ok} or with
 * {@code failed} and the error. Argument: the brokers' addresses.
 */
public final class Tiered {
    /** The timestamp of the first record, in 2100: later than those of the markers that brokers write. */
    private static final long BEGINNING_MS = 4_102_444_800_000L;

    private final String brokers;
    private final Admin admin;
    private final Map<String, KafkaProducer<byte[], byte[]>> producers = new HashMap<>();

    private Tiered(String brokers) {
        this.brokers = brokers;
        this.admin = Admin.create(Map.of("bootstrap.servers", brokers));
    }

    public static void main(String[] arguments) throws Exception {
        Tiered tiered = new Tiered(arguments[0]);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            try {
                tiered.run(line.split(" "));
                System.out.println("ok");
            } catch (Exception e) {
                System.out.println("failed " + e.toString().replace('\n', ' '));
            }
            System.out.flush();
        }
        // A producer that is closed waits for its records, also if no broker is left.
        Runtime.getRuntime().halt(0);
    }

    private void run(String[] words) throws Exception {
        String topic = words[1];
        switch (words[0]) {
            case "create":
                NewTopic plain = new NewTopic(topic, 1, Short.parseShort(words[2]));
                create(plain.configs(settings(words, 3)));
                break;
            case "assign":
                List<Integer> brokers = Arrays.stream(words[2].split(",")).map(Integer::valueOf).toList();
                create(new NewTopic(topic, Map.of(0, brokers)).configs(settings(words, 3)));
                break;
            case "alter":
                alter(topic, settings(words, 2));
                break;
            case "delete":
                admin.deleteTopics(List.of(topic)).all().get();
                break;
            case "truncate":
                TopicPartition partition = new TopicPartition(topic, 0);
                admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(Long.parseLong(words[2])))).all().get();
                break;
            case "offsets":
                System.out.println(offset(topic, OffsetSpec.earliest()) + " " + offset(topic, OffsetSpec.latest()));
                break;
            case "replicas":
                System.out.println(partition(topic).isr().size());
                break;
            case "leader":
                System.out.println(partition(topic).leader().id());
                break;
            case "beans":
                beans(words[1], words[2]);
                break;
            case "times":
                times(topic, Integer.parseInt(words[2]));
                break;
            case "write":
                write(topic.split(","), words[2], Integer.parseInt(words[3]), Long.parseLong(words[4]), Path.of(words[5]));
                break;
            case "stream":
                stream(topic, Integer.parseInt(words[2]), Integer.parseInt(words[3]), Path.of(words[4]));
                break;
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    /** Prints the numbers of another JVM's MBeans with such names: for each its name, its attribute and its value. */
    private static void beans(String pid, String names) throws Exception {
        VirtualMachine machine = VirtualMachine.attach(pid);
        JMXServiceURL address = new JMXServiceURL(machine.startLocalManagementAgent());
        try (JMXConnector connector = JMXConnectorFactory.connect(address)) {
            MBeanServerConnection beans = connector.getMBeanServerConnection();
            for (ObjectName name : beans.queryNames(new ObjectName(names), null)) {
                for (MBeanAttributeInfo attribute : beans.getMBeanInfo(name).getAttributes()) {
                    Object value = beans.getAttribute(name, attribute.getName());
                    if (value instanceof Number) {
                        System.out.println(name + " " + attribute.getName() + " " + value);
                    }
                }
            }
        } finally {
            machine.detach();
        }
    }

    private static Map<String, String> settings(String[] words, int from) {
        Map<String, String> settings = new HashMap<>();
        for (String word : Arrays.copyOfRange(words, from, words.length)) {
            settings.put(word.substring(0, word.indexOf('=')), word.substring(word.indexOf('=') + 1));
        }
        return settings;
    }

    private TopicPartitionInfo partition(String topic) throws Exception {
        return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().get(0);
    }

    private void create(NewTopic topic) throws Exception {
        var created = admin.createTopics(List.of(topic));
        System.out.println(created.topicId(topic.name()).get());
        while (true) {
            try {
                admin.describeTopics(List.of(topic.name())).allTopicNames().get();
                return;
            } catch (java.util.concurrent.ExecutionException e) {
                Thread.sleep(100);
            }
        }
    }

    private void alter(String topic, Map<String, String> settings) throws Exception {
        List<AlterConfigOp> changes = new ArrayList<>();
        settings.forEach((key, value) ->
            changes.add(new AlterConfigOp(new ConfigEntry(key, value), AlterConfigOp.OpType.SET)));
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        admin.incrementalAlterConfigs(Map.of(resource, changes)).all().get();
    }

    private ListOffsetsResultInfo found(String topic, OffsetSpec spec) throws Exception {
        TopicPartition partition = new TopicPartition(topic, 0);
        return admin.listOffsets(Map.of(partition, spec)).all().get().get(partition);
    }

    private long offset(String topic, OffsetSpec spec) throws Exception {
        return found(topic, spec).offset();
    }

    /** Prints the offset and the time that the broker finds for every tenth record's time, and around it. */
    private void times(String topic, int records) throws Exception {
        for (int nth = 0; nth < records; nth += 10) {
            ListOffsetsResultInfo found = found(topic, OffsetSpec.forTimestamp(timeOf(nth) + nth % 3 - 1));
            System.out.println(nth + " " + found.offset() + " " + found.timestamp());
        }
        ListOffsetsResultInfo latest = found(topic, OffsetSpec.maxTimestamp());
        System.out.println("max " + latest.offset() + " " + latest.timestamp());
    }

    /** Some records are older than the ones before. */
    private static long timeOf(int nth) {
        return BEGINNING_MS + nth * 10L - (nth % 5 == 0 ? 35 : 0);
    }

    private KafkaProducer<byte[], byte[]> producer(String kind, String codec, Map<String, String> more) {
        return producers.computeIfAbsent(kind + codec, name -> {
            Map<String, Object> settings = new HashMap<>(Map.of(
                "bootstrap.servers", brokers, "compression.type", codec, "linger.ms", "20", "batch.size", "131072",
                "max.request.size", "20971520", "buffer.memory", "67108864",
                // Otherwise a request that is sent again could change the order.
                "max.in.flight.requests.per.connection", "1"));
            settings.putAll(more);
            KafkaProducer<byte[], byte[]> producer =
                new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
            if (more.containsKey("transactional.id")) {
                producer.initTransactions();
            }
            return producer;
        });
    }

    /** The same records with the same offsets to each topic, in groups: transactions, committed or not, and others. */
    private void write(String[] topics, String codec, int bytes, long seed, Path notes) throws Exception {
        Random random = new Random(seed);
        try (BufferedWriter out = Files.newBufferedWriter(notes)) {
            int nth = 0;
            for (long left = bytes; left > 0;) {
                int kind = random.nextInt(4);
                KafkaProducer<byte[], byte[]> producer = kind == 0 ? producer("plain", codec, Map.of("enable.idempotence", "false"))
                    : kind == 1 ? producer("idempotent", codec, Map.of())
                    : producer("transactional", codec, Map.of("transactional.id", "writer-" + codec));
                if (kind > 1) {
                    producer.beginTransaction();
                }
                Map<Integer, List<Future<RecordMetadata>>> sent = new LinkedHashMap<>();
                List<byte[]> values = new ArrayList<>();
                int first = nth;
                for (int group = 1 + random.nextInt(60); group > 0; group--, nth++) {
                    byte[] value = value(random, nth, codec, topics[0]);
                    values.add(value);
                    left -= 70 + (value == null ? 0 : value.length);
                    for (String topic : topics) {
                        sent.computeIfAbsent(nth, n -> new ArrayList<>()).add(producer.send(record(topic, nth, value)));
                    }
                }
                producer.flush();
                long last = sent.get(nth - 1).get(0).get().offset();
                if (kind == 2) {
                    producer.commitTransaction();
                } else if (kind == 3) {
                    producer.abortTransaction();
                }
                for (String topic : topics) {
                    // The transaction's marker is written later. The next records must come after it.
                    while (kind > 1 && offset(topic, OffsetSpec.latest()) < last + 2) {
                        Thread.sleep(1);
                    }
                }
                for (var one : sent.entrySet()) {
                    long offset = one.getValue().get(0).get().offset();
                    for (Future<RecordMetadata> other : one.getValue()) {
                        if (other.get().offset() != offset) {
                            throw new IllegalStateException("record " + one.getKey() + " differs in its offset");
                        }
                    }
                    note(out, offset, one.getKey(), kind == 3 ? "aborted" : "committed", values.get(one.getKey() - first));
                }
            }
            System.out.println(nth);
        }
    }

    private static void note(BufferedWriter out, long offset, int nth, String state, byte[] value) throws Exception {
        byte[] hash = MessageDigest.getInstance("SHA-256").digest(value == null ? "null".getBytes() : value);
        out.write(offset + " " + nth + " " + state + " " + HexFormat.of().formatHex(hash) + "\n");
    }

    private static ProducerRecord<byte[], byte[]> record(String topic, int nth, byte[] value) {
        byte[] key = nth % 7 == 0 ? null : ("key-" + nth).getBytes(StandardCharsets.UTF_8);
        ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, 0, timeOf(nth), key, value);
        if (nth % 3 == 0) {
            record.headers().add(new RecordHeader("nth", Integer.toString(nth).getBytes(StandardCharsets.UTF_8)));
            record.headers().add(new RecordHeader("empty", null));
        }
        return record;
    }

    /** Each tenth record has a word of its own. Some values are null, two are large. */
    private static byte[] value(Random random, int nth, String codec, String topic) {
        if (nth % 10 == 0) {
            return text(random, "needle" + nth + "of" + topic, 2000);
        }
        if (nth % 11 == 0) {
            return null;
        }
        if (nth == 33 || nth == 75) {
            // A batch must fit into a segment. So with a codec, the larger one can be compressed.
            int bytes = nth == 33 ? 1 << 20 : 8 << 20;
            return nth == 75 && !codec.equals("none") ? text(random, "large", bytes) : noise(random, bytes);
        }
        return nth % 2 == 0 ? noise(random, 1 + random.nextInt(20_000)) : text(random, "small", 1 + random.nextInt(20_000));
    }

    private static byte[] noise(Random random, int bytes) {
        byte[] noise = new byte[bytes];
        random.nextBytes(noise);
        return noise;
    }

    private static byte[] text(Random random, String word, int bytes) {
        StringBuilder text = new StringBuilder("{\"level\":\"INFO\",\"word\":\"" + word + "\",\"user\":" + random.nextInt(1000) + ",\"text\":\"");
        String line = "request " + random.nextInt() + " took " + random.nextInt(900) + " ms and was answered in full; ";
        while (text.length() < bytes) {
            text.append(line);
        }
        return text.append("\"}").toString().getBytes(StandardCharsets.UTF_8);
    }

    /** Sends records until it has this many, whatever fails meanwhile. Notes those that were acknowledged. */
    private void stream(String topic, int records, int pauseMs, Path notes) throws Exception {
        KafkaProducer<byte[], byte[]> producer = producer("stream", "lz4",
            Map.of("acks", "all", "delivery.timeout.ms", "600000", "request.timeout.ms", "5000", "max.block.ms", "600000"));
        Random random = new Random(records);
        try (BufferedWriter out = Files.newBufferedWriter(notes)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            List<byte[]> values = new ArrayList<>();
            for (int nth = 0; nth < records; nth++) {
                values.add(nth % 10 == 0 ? text(random, "needle" + nth + "of" + topic, 3000) : noise(random, 4000));
                sent.add(producer.send(record(topic, nth, values.get(nth))));
                if (pauseMs > 0) {
                    Thread.sleep(pauseMs);
                }
            }
            producer.flush();
            for (int nth = 0; nth < records; nth++) {
                note(out, sent.get(nth).get().offset(), nth, "committed", values.get(nth));
            }
        }
        System.out.println(records);
    }
}
