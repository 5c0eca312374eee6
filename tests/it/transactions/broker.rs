//! What Kafka's own consumers read, compared with the answers about the same segments.

use std::collections::BTreeMap;

use wal_indexer::client::Connection;
use wal_indexer::proto::v1;
use wal_indexer::proto::v1::fetch_request::FetchForm;

use crate::kafka::Kafka;
use crate::read_back::serve;
use crate::written::Written;

const TOPIC: &str = "transactions";

/// Returns the records by their offsets, and the offset at which a consumer of this isolation level ends.
fn read(printed: &str, level: &str) -> (BTreeMap<i64, u32>, i64) {
    let lines =
        printed.lines().filter_map(|line| line.strip_prefix(level)?.strip_prefix(' ')?.split_once(' '));
    let (mut records, mut end) = (BTreeMap::new(), None);
    for (offset, number) in lines {
        match offset.parse() {
            Ok(offset) => drop(records.insert(offset, number.parse().expect("a checksum"))),
            Err(_) => end = number.parse().ok(),
        }
    }
    (records, end.expect("it came to its end"))
}

async fn fetched(client: &mut Connection, form: FetchForm) -> (BTreeMap<i64, u32>, i64, Option<i64>) {
    let (mut records, mut offset) = (BTreeMap::new(), 0);
    loop {
        let mut request =
            v1::FetchRequest { topic: "orders".to_owned(), partition: 3, offset, ..Default::default() };
        request.set_form(form);
        let mut messages = client.fetch(request).await.expect("an answer");
        let mut last = None;
        while let Some(message) = messages.message().await.expect("a message") {
            let crc = |record: &v1::Record| crc32fast::hash(record.value.as_deref().unwrap_or_default());
            records.extend(message.records.iter().map(|record| (record.offset, crc(record))));
            last = Some(message);
        }
        let last = last.expect("where to go on");
        if last.next_offset() == offset {
            return (records, offset, last.open_transaction_offset);
        }
        offset = last.next_offset();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Kafka and a JDK: tests/install-servers.sh"]
async fn kafka_consumers_that_read_what_is_committed_read_the_same() {
    let kafka = Kafka::start();
    for seed in 1..=3_u64 {
        let topic = format!("{TOPIC}-{seed}");
        let printed = kafka.run("Transactions.java", &[&kafka.bootstrap(), &topic, &seed.to_string()]);
        let (written, segments) = (Written::new(), kafka.segments(&topic));
        assert!(segments.len() > 2, "transactions span segments");
        for segment in &segments {
            written.put("kafka/segment", segment).await;
        }
        let asked = serve(&written, async |address| {
            let mut client = Connection::connect(&address).await.expect("a worker");
            let (all, end) = read(&printed, "read_uncommitted");
            assert_eq!(fetched(&mut client, FetchForm::Records).await, (all.clone(), end, None), "{seed}");
            // A consumer ends at the last stable offset, where the open transaction begins.
            let (committed, stable) = read(&printed, "read_committed");
            let found = fetched(&mut client, FetchForm::RecordsCommitted).await;
            assert_eq!(found, (committed.clone(), stable, Some(stable)), "{seed}");
            assert!(all.len() > committed.len() + 20 && committed.len() > 50, "{seed}");
        });
        asked.await;
    }
}
