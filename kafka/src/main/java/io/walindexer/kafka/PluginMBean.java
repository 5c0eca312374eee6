package io.walindexer.kafka;

import java.lang.management.ManagementFactory;
import java.util.Map;
import java.util.function.LongSupplier;
import javax.management.Attribute;
import javax.management.AttributeList;
import javax.management.AttributeNotFoundException;
import javax.management.DynamicMBean;
import javax.management.JMException;
import javax.management.MBeanAttributeInfo;
import javax.management.MBeanInfo;
import javax.management.ObjectName;
import org.apache.kafka.common.TopicPartition;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The plugin's metrics in JMX: {@code io.walindexer.kafka:type=RemoteStorageManager,broker=ID}. */
final class PluginMBean implements DynamicMBean {
    private static final Logger LOG = LoggerFactory.getLogger(PluginMBean.class);

    private final Map<String, LongSupplier> values;

    private PluginMBean(Map<String, LongSupplier> values) {
        this.values = values;
    }

    static String name(String brokerId) {
        return "io.walindexer.kafka:type=RemoteStorageManager,broker=" + ObjectName.quote(brokerId);
    }

    /** The name of the metrics of one partition. Names of topics need no quotes. */
    static String name(String brokerId, TopicPartition partition) {
        return "io.walindexer.kafka:type=CopyLag,broker=" + ObjectName.quote(brokerId) + ",topic=" + partition.topic()
            + ",partition=" + partition.partition();
    }

    /** Publishes the metrics of partitions, each under a name of its own. */
    static CopyLag.Publisher ofPartitions(String brokerId) {
        return new CopyLag.Publisher() {
            @Override
            public void add(TopicPartition partition, Map<String, LongSupplier> values) {
                register(name(brokerId, partition), values);
            }

            @Override
            public void remove(TopicPartition partition) {
                unregister(name(brokerId, partition));
            }
        };
    }

    /** Registers the values. Without them the plugin works as well. */
    static void register(String name, Map<String, LongSupplier> values) {
        try {
            ManagementFactory.getPlatformMBeanServer().registerMBean(new PluginMBean(values), new ObjectName(name));
        } catch (JMException e) {
            LOG.warn("cannot register the metrics {}: {}", name, e.toString());
        }
    }

    static void unregister(String name) {
        try {
            ManagementFactory.getPlatformMBeanServer().unregisterMBean(new ObjectName(name));
        } catch (JMException e) {
            LOG.debug("cannot remove the metrics {}: {}", name, e.toString());
        }
    }

    @Override
    public Object getAttribute(String attribute) throws AttributeNotFoundException {
        LongSupplier value = values.get(attribute);
        if (value == null) {
            throw new AttributeNotFoundException(attribute);
        }
        return value.getAsLong();
    }

    @Override
    public AttributeList getAttributes(String[] attributes) {
        AttributeList list = new AttributeList();
        for (String attribute : attributes) {
            LongSupplier value = values.get(attribute);
            if (value != null) {
                list.add(new Attribute(attribute, value.getAsLong()));
            }
        }
        return list;
    }

    @Override
    public void setAttribute(Attribute attribute) throws AttributeNotFoundException {
        throw new AttributeNotFoundException(attribute.getName() + " cannot be set");
    }

    @Override
    public AttributeList setAttributes(AttributeList attributes) {
        return new AttributeList();
    }

    @Override
    public Object invoke(String action, Object[] parameters, String[] signature) {
        throw new UnsupportedOperationException(action);
    }

    @Override
    public MBeanInfo getMBeanInfo() {
        MBeanAttributeInfo[] attributes = values.keySet().stream()
            .map(name -> new MBeanAttributeInfo(name, "long", name, true, false, false))
            .toArray(MBeanAttributeInfo[]::new);
        return new MBeanInfo(PluginMBean.class.getName(), "wal-indexer's plugin", attributes, null, null, null);
    }
}
