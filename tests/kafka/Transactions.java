import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.zip.CRC32;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Writes a topic with transactions of several producers, some aborted, one by a fence, and one left open; then prints what consumers read: a line
 * for each record with the isolation level, the offset and the CRC-32 of the value.
 *
 * Arguments: the broker's address, the topic, a seed.
 */
public final class Transactions {
    private static final int STEPS = 300;

    public static void main(String[] arguments) throws Exception {
        String broker = arguments[0];
        TopicPartition partition = new TopicPartition(arguments[1], 0);
        Random random = new Random(Long.parseLong(arguments[2]));
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", broker))) {
            NewTopic topic = new NewTopic(partition.topic(), 1, (short) 1).configs(Map.of("segment.bytes", "1048576"));
            admin.createTopics(List.of(topic)).all().get();
        }
        write(broker, partition, random);
        for (String level : new String[] {"read_uncommitted", "read_committed"}) {
            read(broker, partition, level);
        }
        System.out.flush();
        // A producer that is closed aborts its transaction.
        Runtime.getRuntime().halt(0);
    }

    private static KafkaProducer<byte[], byte[]> producer(String broker, String transactionalId) {
        Map<String, Object> settings = new java.util.HashMap<>(Map.of("bootstrap.servers", broker, "linger.ms", "1"));
        if (transactionalId != null) {
            settings.put("transactional.id", transactionalId);
        }
        KafkaProducer<byte[], byte[]> producer =
            new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
        if (transactionalId != null) {
            producer.initTransactions();
        }
        return producer;
    }

    private static void write(String broker, TopicPartition partition, Random random) throws Exception {
        List<KafkaProducer<byte[], byte[]>> producers = new ArrayList<>();
        boolean[] open = new boolean[4];
        for (int nth = 0; nth < open.length; nth++) {
            producers.add(producer(broker, "producer-" + nth));
        }
        // Idempotent, and in no transaction.
        KafkaProducer<byte[], byte[]> plain = producer(broker, null);
        for (int step = 0; step < STEPS; step++) {
            int nth = random.nextInt(open.length);
            KafkaProducer<byte[], byte[]> producer = producers.get(nth);
            int choice = random.nextInt(12);
            if (choice == 0) {
                send(plain, partition, random);
            } else if (!open[nth]) {
                producer.beginTransaction();
                open[nth] = true;
                send(producer, partition, random);
            } else if (choice < 8) {
                send(producer, partition, random);
            } else if (choice == 8) {
                // Another process with its name fences it: the broker aborts.
                producers.set(nth, producer(broker, "producer-" + nth));
                open[nth] = false;
            } else {
                if (choice == 9) {
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                }
                open[nth] = false;
            }
        }
        for (int nth = 1; nth < open.length; nth++) {
            if (open[nth]) {
                producers.get(nth).commitTransaction();
            }
        }
        if (!open[0]) {
            producers.get(0).beginTransaction();
        }
        send(producers.get(0), partition, random);
        send(plain, partition, random);
    }

    private static void send(KafkaProducer<byte[], byte[]> producer, TopicPartition partition, Random random) throws Exception {
        byte[] value = new byte[1000 + random.nextInt(30_000)];
        random.nextBytes(value);
        producer.send(new ProducerRecord<>(partition.topic(), partition.partition(), null, value)).get();
    }

    private static void read(String broker, TopicPartition partition, String level) {
        Map<String, Object> settings = Map.of("bootstrap.servers", broker, "isolation.level", level);
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            long end = consumer.endOffsets(List.of(partition)).get(partition);
            while (consumer.position(partition) < end) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    CRC32 crc = new CRC32();
                    crc.update(record.value());
                    System.out.println(level + " " + record.offset() + " " + crc.getValue());
                }
            }
            System.out.println(level + " end " + end);
        }
    }
}
