#!/usr/bin/env python3
"""Breaks the code in one place at a time and checks that a test fails: tests/mutations.py [NAME…]

All mutations are built at once, in a copy of the working tree below target/mutations. Each has a switch that the
variable MUTANT turns on. First every test named here must pass with all switches off. Then each must fail with the
switch of its mutation on. docs/reliability.md lists all mutations. Takes some minutes; not part of `make test`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "mutations"
TREE = WORK / "tree"
SECONDS_MAX = 240
ALL_SECONDS_MAX = 2400

SWITCH = """

/// Whether this mutation is on.
pub fn mutant(name: &str) -> bool {
    static ON: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var("MUTANT").unwrap_or_default()) == name
}
"""

READ = """        let read = self.read_back(&key.to_string(), url).await;
        let Some(found) = read.map_err(failed)? else {
            return Ok(None);
        };
        if !found.is(object) {"""
BELIEVE = """        if crate::mutant("24") {
            let found = Found { size_bytes: object.size_bytes, crc32c: object.crc32c, e_tag: None };
            return Ok(Some(Confirmed { found, existed: false }));
        }
"""
ADD = "        for (nth, record) in batch.iter().enumerate().skip(first) {\n            if self.segment"
CREATE = "let options = PutOptions { mode: PutMode::Create,"

# Name: what is changed, the tests that must fail, and for each place the file, the old text and the new text. The old
# text must occur exactly once.
MUTATIONS = {
    "01": ("A bundle that could not be stored is left out of the receipt.", "storefaults::lesson_01_a_put_that_is_refused", [
        ("src/ingest/upload.rs", "pin!(uploads.try_buffered(at_once))", 'pin!(futures::StreamExt::filter(uploads.try_buffered(at_once), |one| std::future::ready(one.is_ok() || !crate::mutant("01"))))'),
    ]),
    "02": ("A frame that does not decode is kept as bytes and passed over.", "lessons::lesson_02", [
        ("src/ingest/slice.rs", "        let decoded = match self.decode(frame)? {", """        if crate::mutant("02") && frame.decode(BATCH_BYTES_MAX).is_err() {
            self.counts.count_torn(frame.bytes.len());
            return Ok((FrameFacts::torn_tail(), 0));
        }
        let decoded = match self.decode(frame)? {"""),
    ]),
    "03": ("V1 records are read past.", "lessons::lesson_03", [
        ("src/segment/chronik.rs", "    builder.record(offset, timestamp, key, Some(value), 0);", """    if !crate::mutant("03") {
        builder.record(offset, timestamp, key, Some(value), 0);
    }"""),
    ]),
    "04": ("The index stops at a million documents and counts on.", "lessons::lesson_04", [
        ("src/index/builder.rs", ADD, """        for (nth, record) in batch.iter().enumerate().skip(first) {
            if crate::mutant("04") && self.documents >= 1_000_000 {
                self.documents += 1;
                continue;
            }
            if self.segment"""),
        ("src/ingest/slice.rs", "if index.documents() != counts.records ||", 'if !crate::mutant("04") && index.documents() != counts.records ||'),
        ("src/ingest/pack.rs", "if indexed != counts.records {", 'if !crate::mutant("04") && indexed != counts.records {'),
    ]),
    "04-counted": ("The same, and the counts are compared, so that the request fails.", "lessons::lesson_04", [
        ("src/index/builder.rs", "            if self.segment.as_ref()", """            if crate::mutant("04-counted") && self.documents >= 1_000_000 {
                continue;
            }
            if self.segment.as_ref()"""),
    ]),
    "05": ("The latest time is the earliest of the latest.", "lessons::lesson_05", [
        ("src/ingest/record_counts.rs", "Some((a.0.min(b.0), a.1.max(b.1)))", 'Some((a.0.min(b.0), if crate::mutant("05") { a.1.min(b.1) } else { a.1.max(b.1) }))'),
    ]),
    "06-twice": ("Each record is added a second time.", "lessons::lesson_06_each_record", [
        ("src/index/builder.rs", "            segment.add(&self.indexed);", """            if crate::mutant("06-twice") {
                segment.add(&self.indexed);
            }
            segment.add(&self.indexed);"""),
    ]),
    "06-scan": ("Each record looks for its place in the batch.", "lessons::lesson_06_the_time", [
        ("src/index/builder.rs", "            self.indexed.fill(&record);", """            if crate::mutant("06-scan") {
                std::hint::black_box(batch.iter().position(|other| other.offset() == record.offset()));
            }
            self.indexed.fill(&record);"""),
    ]),
    "07": ("Values are stored only.", "lessons::lesson_07", [
        ("src/index/settings.rs", "        let found = self.topics.iter()", """        if crate::mutant("07") {
            return TopicSettings { value: ValueMode::None, positions: false };
        }
        let found = self.topics.iter()"""),
    ]),
    "08": ("Every partition has a builder of its own from its first frame on, until the segment ends.", "lessons::lesson_08", [
        ("src/ingest/slices.rs", "open.pending.opened_bytes >= RUN_BYTES {", 'open.pending.opened_bytes >= RUN_BYTES || crate::mutant("08") {'),
        ("src/ingest/slices.rs", "builders_max: 2 * threads,", 'builders_max: if crate::mutant("08") { 10_000 } else { 2 * threads },'),
    ]),
    "09": ("CPU work runs where it is awaited.", "lessons::lesson_09", [
        ("src/cpu.rs", "        let (reply, result) = oneshot::channel();", """        if crate::mutant("09") {
            return catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked);
        }
        let (reply, result) = oneshot::channel();"""),
    ]),
    "13": ("A runtime is dropped inside of async code.", "kill::lesson_13", [
        ("src/cli/serve.rs", "    server::run(listener, config, signals.nth(1)).await", """    if crate::mutant("13") {
        let runtime = runtime()?;
        let served = server::run(listener, config, signals.nth(1)).await;
        drop(runtime);
        return served.map_err(|error| failed("cannot serve", &error));
    }
    server::run(listener, config, signals.nth(1)).await"""),
    ]),
    "14": ("LZ4 is a size and a block.", "lessons::lesson_14", [
        ("src/segment/codec.rs", "    let len = lz4_frame_len(input)?;", """    if crate::mutant("14") {
        let opened = lz4_flex::block::decompress_size_prepended(input);
        return opened.map(Decompressed::from).map_err(|_| CompressionFlaw::Broken.into());
    }
    let len = lz4_frame_len(input)?;"""),
    ]),
    "16": ("A failed attempt fails the request, and whoever sends it again has it all built again.", "storefaults::lesson_16", [
        ("src/store/put.rs", "                Err(error) if error.is_temporary() => {\n                    let landed", '                Err(error) if error.is_temporary() && !crate::mutant("16") => {\n                    let landed'),
        ("src/store/put.rs", "Err(PutError::Store { source, .. }) if source.is_temporary() =>", 'Err(PutError::Store { source, .. }) if source.is_temporary() && !crate::mutant("16") =>'),
    ]),
    "17-headers": ("Headers are not indexed.", "lessons::lesson_17", [
        ("src/index/document.rs", "        for (name, value) in record.headers() {", """        for (name, value) in record.headers() {
            if crate::mutant("17-headers") {
                continue;
            }"""),
    ]),
    "17-gaps": ("Gaps are not worth telling.", "lessons::lesson_17", [
        ("src/ingest/record_counts.rs", "        self.data.sort_unstable();", """        if crate::mutant("17-gaps") {
            return Vec::new();
        }
        self.data.sort_unstable();"""),
    ]),
    "18-copy": ("The whole object is put together in memory.", "lessons::lesson_18", [
        ("src/bundle/assemble.rs", "            parts: self.parts,\n", '            parts: if crate::mutant("18-copy") { vec![self.parts.concat().into()] } else { self.parts },\n'),
    ]),
    "18-held": ("What the request held while it was built stays reserved while it is uploaded.", "lessons::lesson_18", [
        ("src/ingest.rs", "        account.shrink_to_held(pack::usage(bundles - first.len()));", """        if !crate::mutant("18-held") {
            account.shrink_to_held(pack::usage(bundles - first.len()));
        }"""),
    ]),
    "21": ("A slice of a single piece is none.", "lessons::lesson_21_empty lessons::lesson_21_the_first", [
        ("src/ingest/slices.rs", ".filter(|open| open.opened_bytes > 0)", '.filter(|open| open.opened_bytes > 0 && !(crate::mutant("21") && open.feed.is_none() && open.pending.pieces.len() == 1))'),
    ]),
    "22": ("The second PUT wins.", "lessons::lesson_22 lost_answers::lesson_22 storefaults::lesson_25_a_put_that_was_given_up", [
        ("src/store/put.rs", CREATE, 'let options = PutOptions { mode: if crate::mutant("22") { PutMode::Overwrite } else { PutMode::Create },'),
    ]),
    "23": ("An attempt has no deadline.", "lost_answers::lesson_23_an_upload_that_hangs", [
        ("src/store/retry.rs", "    let outcome = match timeout(limit, request).await {", """    let limit = if crate::mutant("23") { std::time::Duration::from_secs(3_600) } else { limit };
    let outcome = match timeout(limit, request).await {"""),
    ]),
    "24": ('"Created" is believed.', "storefaults::lesson_24 lost_answers::lesson_24", [
        ("src/store/put.rs", READ, BELIEVE + READ),
    ]),
    "26": ("What lies there is ours.", "storefaults::lesson_26 lost_answers::lesson_26_a_write", [
        ("src/store/put.rs", "        let check_result = if found.is(object) {", '        let check_result = if found.is(object) || crate::mutant("26") {'),
    ]),
    "26-exists": ('"Already exists" is an error like any other.', "lost_answers::lesson_26_already", [
        ("src/store/put.rs", "                Ok(Answer::Exists | Answer::Conflict(_)) => {", """                Ok(Answer::Exists) if crate::mutant("26-exists") => {
                    let source = StoreError::new(Operation::Put, url, Cause::NotFound);
                    Err(PutError::Store { source, attempts: progress.attempts })
                }
                Ok(Answer::Exists | Answer::Conflict(_)) => {"""),
    ]),
    "28": ("Only the one that was refused slows down.", "lost_answers::lesson_28", [
        ("src/store/retry.rs", "Err(error) if error.is_slow_down() => rate_limit.refused(timeouts),", 'Err(error) if error.is_slow_down() && !crate::mutant("28") => rate_limit.refused(timeouts),'),
    ]),
    "30": ("Work in hand is dropped at once.", "kill::lesson_30_sigterm", [
        ("src/server.rs", "        sleep(drain_max).await;", '        sleep(if crate::mutant("30") { Duration::ZERO } else { drain_max }).await;'),
    ]),
    "30-code": ("A worker that drains says that something must be set right first.", "drain::answers_that_outlast kill::lesson_30_work_that_outlasts", [
        ("src/rpc/status.rs", 'Status::with_error_details(Code::Unavailable, "this worker is draining"', 'Status::with_error_details(if crate::mutant("30-code") { Code::FailedPrecondition } else { Code::Unavailable }, "this worker is draining"'),
    ]),
    "07-search": ("What the index of an uploaded bundle finds is passed over.", "reading::lesson_07", [
        ("src/search/leaf.rs", "if few.is_empty() {", 'if few.is_empty() || crate::mutant("07-search") {'),
    ]),
    "10-search": ("Matches count and are answered as if no other bundle held them.", "reading::lesson_10", [
        ("src/search/hit_collector.rs", "let overlaps = owner.overlaps.contain(hit.offset);", 'let overlaps = !crate::mutant("10-search") && owner.overlaps.contain(hit.offset);'),
    ]),
    "packed-part": ("Bundles that are made while the first ones are stored are forgotten.", "bounds::a_segment_of_more_partitions", [
        ("src/ingest/pack.rs", "            if packing.left.len() == 0 {", '            if packing.left.len() == 0 || crate::mutant("packed-part") {'),
    ]),
    "10-fetch": ("What was read before is answered again.", "fetch::lesson_10", [
        ("src/fetch/reorder_buffer.rs", "if versions.iter().any(|other| other.is_same(&version)) {", 'if !crate::mutant("10-fetch") && versions.iter().any(|other| other.is_same(&version)) {'),
    ]),
    "44": ("A record does not say which leader appended it.", "epochs::lesson_44_different", [
        ("src/segment.rs", "StoredRecord { leader_epoch: self.leader_epoch(), ..stored }", 'StoredRecord { leader_epoch: self.leader_epoch().filter(|_| !crate::mutant("44")), ..stored }'),
    ]),
    "44-same": ("A record is another one in another epoch.", "epochs::lesson_44_different", [
        ("src/fetch/reorder_buffer.rs", "(Item::Record(record), Item::Record(other)) => record.is_same(other),", '(Item::Record(record), Item::Record(other)) if !crate::mutant("44-same") => record.is_same(other),'),
    ]),
    "times-of-key": ("Bundles whose keys have zeros are taken for timeless.", "times::a_listing_says times::what_is_older times::of_logs_stored", [
        ("src/archive/times.rs", "        let cached = CachedParts::new(self.memory(), listed);", '''        if crate::mutant("times-of-key") {
            return Ok(None);
        }
        let cached = CachedParts::new(self.memory(), listed);'''),
    ]),
    "fetch-order": ("A block's records are answered as soon as it is read.", "fetch::lesson_10", [
        ("src/fetch/response.rs", "self.buffer.take_before(self.next_to_come())", 'self.buffer.take_before(self.next_to_come().filter(|_| !crate::mutant("fetch-order")))'),
    ]),
    "fetch-next": ("The next page begins one record late.", "fetch::following_next_offset", [
        ("src/fetch/response.rs", "self.answered_to = offset.saturating_add(1);", 'self.answered_to = offset.saturating_add(if crate::mutant("fetch-next") { 2 } else { 1 });'),
    ]),
    "fetch-end": ("A log's end is where its last record is.", "fetch::from_every_offset_of_every_fixture_exactly", [
        ("src/fetch/response.rs", "if is_read_to_its_end {", 'if is_read_to_its_end && !crate::mutant("fetch-end") {'),
    ]),
    "fetch-hole": ("A block that cannot be read is passed over.", "fetch::a_bundle_that_is_missing", [
        ("src/fetch/response.rs", "self.buffer.merge(read?);", """if crate::mutant("fetch-hole") && read.is_err() {
                continue;
            }
            self.buffer.merge(read?);"""),
    ]),
    "fetch-base": ("A batch that begins before the offset is left out.", "fetch::from_every_offset_of_every_fixture_the_producers", [
        ("src/fetch/block.rs", "if range.is_some_and(|range| !buffer.takes_some(range.first(), range.last())) {", 'if range.is_some_and(|range| !buffer.takes_some(range.first(), if crate::mutant("fetch-base") { range.first() } else { range.last() })) {'),
    ]),
    "query-not": ("What must not match is left out of the query.", "queries::queries_of_every_fixture", [
        ("src/index/query/compile.rs", "            Occur::MustNot => (", """            Occur::MustNot if crate::mutant("query-not") => {
                ((Occur::Should, Box::new(EmptyQuery)), RequiredTerms::Nothing)
            }
            Occur::MustNot => ("""),
    ]),
    "query-end": ("A range holds its end, whatever bracket closes it.", "queries::queries_of_every_fixture", [
        ("src/index/query/parse.rs", "Bound::Included(end) if !is_included =>", 'Bound::Included(end) if !is_included && !crate::mutant("query-end") =>'),
    ]),
    "query-prefix": ("A prefix stands for twenty words.", "queries::queries_of_every_fixture", [
        ("src/index/query/prefix.rs", "        while terms.advance() {", '        while terms.advance() && !(crate::mutant("query-prefix") && uncounted == 20) {'),
    ]),
    "query-phrase": ("The places of words do not matter.", "queries::so_they_do", [
        ("src/index/query/compile.rs", "let in_order = self.positions ||", 'let in_order = (self.positions && !crate::mutant("query-phrase")) ||'),
    ]),
    "query-excluded": ("Tantivy excludes a phrase as it would.", "queries::so_they_do", [
        ("src/index/query/compile.rs", "((occur, Box::new(Excluded(query))), ", '((occur, if crate::mutant("query-excluded") { query } else { Box::new(Excluded(query)) }), '),
    ]),
    "query-follow": ("What was shown is shown again with each bundle that holds it.", "queries::command::what_is_followed", [
        ("src/cli/search/follow.rs", "!shown.contains(record.offset.cast_unsigned())", 'crate::mutant("query-follow") || !shown.contains(record.offset.cast_unsigned())'),
    ]),
    "expire-time": ("A bundle is as old as its first record.", "expire::only_bundles", [
        ("src/expire.rs", "is_some_and(|(_, last_ms)| last_ms < limit_ms)", 'is_some_and(|(first_ms, last_ms)| (if crate::mutant("expire-time") { first_ms } else { last_ms }) < limit_ms)'),
    ]),
    "expire-offset": ("One bundle too many goes: the one that the line runs through.", "expire::only_bundles", [
        ("src/expire.rs", "Self::BelowOffset(limit) => bundle.listed.key.range().last() < limit,", 'Self::BelowOffset(limit) => (if crate::mutant("expire-offset") { bundle.listed.key.range().first() } else { bundle.listed.key.range().last() }) < limit,'),
    ]),
    "expire-untimed": ("A bundle whose records have no times is older than any time.", "expire::bundles_without_times", [
        ("src/expire.rs", "            Self::BeforeMs(limit_ms) =>", '            Self::BeforeMs(_) if crate::mutant("expire-untimed") && bundle.times == Times::Absent => true,\n            Self::BeforeMs(limit_ms) =>'),
    ]),
    "expire-name": ("A name that is nearly a key is taken for one.", "expire::only_bundles", [
        ("src/store/key.rs", "    if canonical != key {", '    if canonical != key && !crate::mutant("expire-name") {'),
    ]),
    "expire-order": ("The newest goes first.", "expire::a_bundle_that_cannot_be_hidden", [
        ("src/expire.rs", "            bundles.sort_by(|a, b| a.listed.key.cmp(&b.listed.key));", '            bundles.sort_by(|a, b| if crate::mutant("expire-order") { b.listed.key.cmp(&a.listed.key) } else { a.listed.key.cmp(&b.listed.key) });'),
    ]),
    "expire-on": ("A failure is passed over, and the next bundle goes.", "expire::a_bundle_that_cannot_be_hidden", [
        ("src/log_by_log.rs", "                    worked.failures.push(error);\n                    break;", '                    worked.failures.push(error);\n                    if !crate::mutant("expire-on") {\n                        break;\n                    }'),
    ]),
    "expire-dry": ("What would go goes.", "expire::only_bundles expire::what_to_delete_is_said", [
        ("src/cli/expire.rs", "    let outcome = match args.delete {", '    let outcome = match args.delete || crate::mutant("expire-dry") {'),
    ]),
    "39": ("A purge takes what was hidden just now.", "hiding::lesson_39", [
        ("src/hidden/purge.rs", "entry.marker.hidden_at_ms <= limit_ms;", 'crate::mutant("39") || entry.marker.hidden_at_ms <= limit_ms;'),
    ]),
    "copy-key": ("The key of a copy follows from its bytes.", "archive::lesson_31", [
        ("src/ingest/pack.rs", "Some(copy) => KeyHash::of_copy(&copy.id, &request.log_id, &partition),", 'Some(_) if crate::mutant("copy-key") => KeyHash::new(&origin.source.sha256, &request.log_id, &partition),\n        Some(copy) => KeyHash::of_copy(&copy.id, &request.log_id, &partition),'),
    ]),
    "copy-differs": ("Another copy of the same id is taken for this one.", "archive::the_same_copy_sent_again", [
        ("src/archive/existing_object.rs", '("attachments", found.attachments() == built.attachments()),', '("attachments", crate::mutant("copy-differs") || found.attachments() == built.attachments()),'),
    ]),
    "copy-base": ("The base offset of a copy is that of its first frame.", "archive::lesson_43", [
        ("src/bundle/manifest.rs", "        stated.map_or(range, |stated| stated.cover(&range))", '        stated.filter(|_| !crate::mutant("copy-base")).map_or(range, |stated| stated.cover(&range))'),
    ]),
    "copy-refused": ("A copy is refused for a frame that cannot be decoded.", "archive::a_copy_is_never_refused", [
        ("src/rpc/archive.rs", "undecodable: Undecodable::Keep,", 'undecodable: if crate::mutant("copy-refused") { Undecodable::Refuse } else { Undecodable::Keep },'),
    ]),
    "copy-attachment": ("The checksum of an attachment is not compared.", "archive::a_request_that_contradicts", [
        ("src/ingest/attachments.rs", "Some(declared) if declared != crc32c => {", 'Some(declared) if declared != crc32c && !crate::mutant("copy-attachment") => {'),
    ]),
    "copy-ahead": ("A read of a copy reads groups without end.", "archive::lesson_36", [
        ("src/copies/reader.rs", "        self.next_block += entries.len();", '        let entries = if crate::mutant("copy-ahead") { &self.archive.blocks().entries()[self.next_block..] } else { entries };\n        self.next_block += entries.len();'),
    ]),
    "copy-found": ("A copy that is hidden is found by its name.", "archive::lesson_31", [
        ("src/store/find.rs", "Ok(found.filter(|_| !is_hidden))", 'Ok(found.filter(|_| crate::mutant("copy-found") || !is_hidden))'),
    ]),
    "spill-limit": ("A spill directory holds whatever comes.", "spill::a_segment_that_is_larger", [
        ("src/ingest/spill.rs", "filter(|used| *used <= bytes_max)", 'filter(|used| *used <= bytes_max || crate::mutant("spill-limit"))'),
    ]),
    "hidden-listed": ("A marker hides nothing from listings.", "hiding::what_is_hidden hiding::a_marker_before", [
        ("src/store/marker.rs", "Ok(at) => markers[at].hides.push(bundle),", 'Ok(at) if !crate::mutant("hidden-listed") => markers[at].hides.push(bundle),\n                Ok(_) => visible.push(bundle),'),
    ]),
    "hidden-receipt": ("What is hidden gets a receipt.", "hiding::a_segment_that_was_deleted hiding::a_marker_before", [
        ("src/store/marker.rs", "            Ok(None) => Ok(()),", '            Ok(None) => Ok(()),\n            Ok(_) if crate::mutant("hidden-receipt") => Ok(()),'),
    ]),
    "hidden-unread": ("A marker counts as made when the store says so.", "hiding::in_process::a_marker_whose_put", [
        ("src/store/marker.rs", "if let Some(found) = self.durable_marker(&name, &url).await? {", 'if crate::mutant("hidden-unread") && error.is_none() {\n                return Ok(Hidden { already: !created, hidden_at_ms: marker.hidden_at_ms });\n            }\n            if let Some(found) = self.durable_marker(&name, &url).await? {'),
    ]),
    "purge-order": ("The marker goes before its bundle.", "hiding::in_process::purge_deletes_the_bundle_then", [
        ("src/hidden/purge.rs", "    let (mut bundles, mut size_bytes) = (0, 0);", '    if crate::mutant("purge-order") {\n        store.unhide(&entry.listed.key).await?;\n    }\n    let (mut bundles, mut size_bytes) = (0, 0);'),
    ]),
    "purge-undeleted": ("A purge does not look at a marker again.", "hiding::in_process::what_is_brought_back", [
        ("src/hidden/purge.rs", "if store.hidden(&entry.listed.key)", 'if !crate::mutant("purge-undeleted") && store.hidden(&entry.listed.key)'),
    ]),
    "unused-young": ("A copy that may still finish is hidden.", "archive::reconcile::a_copy_may_still_finish", [
        ("src/reconcile.rs", "if copy.changed_at_ms <= care.limit_ms => {", 'if crate::mutant("unused-young") || copy.changed_at_ms <= care.limit_ms => {'),
    ]),
    "metadata-gap": ("Metadata with a gap are taken for complete.", "archive::reconcile::metadata_that_are_incomplete", [
        ("src/reconcile/kafka_metadata.rs", "if found != expected {", 'if found != expected && !crate::mutant("metadata-gap") {'),
    ]),
    "purge-window": ("A purge may be faster than an upload.", "hiding::purge_refuses", [
        ("src/hidden/purge.rs", "if after < AFTER_MIN {", 'if after < AFTER_MIN && !crate::mutant("purge-window") {'),
    ]),
    "deleted-again": ("A segment that was deleted is sent again in every run.", "hiding::an_agent_keeps", [
        ("src/client/retry_policy.rs", "if is_deleted(status) =>", 'if is_deleted(status) && !crate::mutant("deleted-again") =>'),
    ]),
    "partitions-metered": ("What partitions will come to is reserved when they are built.", "bounds::more_partitions", [
        ("src/ingest/slices.rs", "(waits as u64 + to_come)", '(waits as u64 + if crate::mutant("partitions-metered") { 0 } else { to_come })'),
    ]),
    "hoarding": ("Whoever declares much keeps it until it has been silent for too long.", "bounds::whoever_declares", [
        ("src/ingest/sender_check.rs", "if is_behind && ", 'if is_behind && !crate::mutant("hoarding") && '),
    ]),
    "message-held": ("What a message holds is given back when it has been encoded.", "rpc::body::tests::what_a_message_holds", [
        ("src/rpc/body.rs", "let Some(memory) = memory.map(Arc::new)", 'let Some(memory) = memory.filter(|_| !crate::mutant("message-held")).map(Arc::new)'),
    ]),
    "opened-metered": ("A batch is opened into whatever it takes, and that is reserved afterwards.", "bounds::what_a_batch", [
        ("src/segment.rs", "codec::decompressed_len(codec, section, bytes_max),", 'if crate::mutant("opened-metered") { Some(0) } else { codec::decompressed_len(codec, section, bytes_max) },'),
    ]),
    "torn": ("Torn bytes are counted and not kept.", "concurrency::a_segment_with_its_torn_tail", [
        ("src/ingest/slice.rs", "            self.blocks.add(position, &bytes, *facts)?;", """            if facts.range.is_some() || !crate::mutant("torn") {
                self.blocks.add(position, &bytes, *facts)?;
            }"""),
    ]),
    "sync": ("What cannot be synced is receipted all the same.", "lost_answers::on_a_file_system", [
        ("src/store/put.rs", "let Location::File(root) = &*self.location else { return Ok(None) };", """let Location::File(root) = &*self.location else { return Ok(None) };
        if crate::mutant("sync") {
            return Ok(None);
        }"""),
    ]),
    "threads": ("Slices are as long as there are threads to build them.", "concurrency::a_bundle_of_several_slices", [
        ("src/ingest/slices.rs", "if open.opened_bytes >= SLICE_BYTES {", 'if open.opened_bytes >= SLICE_BYTES / (if crate::mutant("threads") { self.context.cpu.threads() as u64 } else { 1 }) {'),
    ]),
    "postings": ("A key or header is found in the first record that has it.", "read_back::every_fixture", [
        ("src/index/inverted.rs", "} else if !is_new && entry.last_doc != doc {", '} else if !is_new && entry.last_doc != doc && !crate::mutant("postings") {'),
    ]),
    "words": ("A word is found in the first record that has it.", "queries::so_they_do_where_words_know_their_places", [
        ("src/index/inverted.rs", "            if found.position != NO_POSITION {", '            if found.position != NO_POSITION && !is_new && crate::mutant("words") {\n            } else if found.position != NO_POSITION {'),
    ]),
    "order": ("Terms are sorted by their first eight bytes.", "concurrency::a_bundle_is_the_same", [
        ("src/index/inverted/order.rs", "    for same in keys.chunk_by_mut(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {", '    for same in keys.chunk_by_mut(|a, b| a.0 == b.0).filter(|same| same.len() > 1 && !crate::mutant("order")) {'),
    ]),
    "random-names": ("Tantivy names its segments, at random.", "concurrency::a_bundle_is_the_same", [
        ("src/index/assemble.rs", "            let name = segment_name(seed, index.segments.len());", """            let name = segment_name(seed, index.segments.len());
            let name = if crate::mutant("random-names") { SegmentId::generate_random().uuid_string() } else { name };"""),
    ]),
    "key": ("The source's bytes have no part in the key.", "concurrency::a_segment_with_its_torn_tail", [
        ("src/store/key.rs", "        hash.update(source_sha256);", """        if !crate::mutant("key") {
            hash.update(source_sha256);
        }"""),
    ]),
    "judge": ("A bundle that differs is refused, whatever is in it.", "concurrency::a_worker_with_other_settings concurrency::a_segment_under_another_name", [
        ("src/archive/existing_object.rs", "    if let Some(what) = difference(", """    if crate::mutant("judge") {
        return Err(foreign("it differs".to_owned()));
    }
    if let Some(what) = difference("""),
    ]),
    "sums": ("A chunk of an index is taken as it comes.", "parts::a_changed_byte_of_an_index", [
        ("src/bundle/hot_cache.rs", "        if stated == Some(computed) {", '        if crate::mutant("sums") || stated == Some(computed) {'),
    ]),
    "kept": ("What is kept of a bundle is kept for its first chunk.", "parts::what_is_kept_is_what", [
        ("src/archive/parts/chunked.rs", "    Part::Chunk { file, chunk }", '    Part::Chunk { file, chunk: if crate::mutant("kept") { 0 } else { chunk } }'),
    ]),
    "newer": ("A later version of the format is read as if it were this one.", "versions::bundles_of_a_later_version", [
        ("src/bundle/footer.rs", "            1..=FORMAT_VERSION => {}\n", '            1..=FORMAT_VERSION => {}\n            _ if crate::mutant("newer") => {}\n'),
    ]),
    "19": ("Whatever its size, a segment counts as one that is small.", "lessons::lesson_19_work", [
        ("src/ingest.rs", "        REQUEST_BASE_BYTES + in_flight", """        if crate::mutant("19") {
            return REQUEST_BASE_BYTES;
        }
        REQUEST_BASE_BYTES + in_flight"""),
    ]),
    "19-again": ("A segment that can never fit is one for which there is no room now.", "lessons::lesson_19_a_segment", [
        ("src/rpc/status.rs", "StatusParts::new(Code::InvalidArgument, \"LARGER_THAN_BUDGET\")", 'StatusParts::new(if crate::mutant("19-again") { Code::ResourceExhausted } else { Code::InvalidArgument }, "LARGER_THAN_BUDGET")'),
    ]),
    "descriptor": ("Each call leaves a descriptor open.", "leaks::a_caller_that_hangs_up leaks::readers_that_hang_up", [
        ("src/rpc.rs", "        let mut outcome = Outcome::new(", """        if crate::mutant("descriptor") {
            std::mem::forget(std::fs::File::open("/proc/self/stat"));
        }
        let mut outcome = Outcome::new("""),
        ("src/rpc/search.rs", "        let request = fetch::request(", """        if crate::mutant("descriptor") {
            std::mem::forget(std::fs::File::open("/proc/self/stat"));
        }
        let request = fetch::request("""),
    ]),
    "leak": ("Memory is not given back.", "kill::a_caller_that_hangs_up leaks::a_caller_that_hangs_up leaks::a_crowd", [
        ("src/ingest.rs", "        let account = MemoryAccount::new(reservation);", """        let account = MemoryAccount::new(reservation);
        if crate::mutant("leak") {
            std::mem::forget(account.clone());
        }"""),
    ]),
    "header": ("A caller may take its time for the header.", "kill::a_caller_that_never_sends", [
        ("src/rpc.rs", "    let first = timeout(silence_max,", '    let silence_max = if crate::mutant("header") { Duration::from_secs(3_600) } else { silence_max };\n    let first = timeout(silence_max,'),
    ]),
    "silent": ("Silent connections are connections.", "kill::connections_that_say_nothing", [
        ("src/server/connection.rs", "() = until(stopping.clone()) => return,", '() = until(stopping.clone()), if !crate::mutant("silent") => return,'),
    ]),
    # Access.
    "role": ("Every role reaches.", "security::tokens::each_role", [
        ("src/server/tokens.rs", "self.roles & role.bit() != 0", 'self.roles & role.bit() != 0 || crate::mutant("role")'),
    ]),
    "token": ("Every token is somebody's.", "security::tokens::each_role security::tokens::a_stranger", [
        ("src/server/tokens.rs", "bool::from(found).then_some(grant)", '(bool::from(found) || crate::mutant("token")).then_some(grant)'),
    ]),
    "metadata": ("Metadata may be as large as it likes.", "security::tokens::metadata", [
        ("src/server/authorization.rs", "if bytes <= METADATA_BYTES_MAX && headers", 'if crate::mutant("metadata") || bytes <= METADATA_BYTES_MAX && headers'),
    ]),
    "renewed": ("Files are read once.", "security::tls::a_renewed security::tls::authorities security::tokens::tokens_can", [
        ("src/server/hot_reload.rs", "Ok(contents) if seen == Some(digest(&contents)) => continue,", 'Ok(contents) if seen == Some(digest(&contents)) || crate::mutant("renewed") => continue,'),
    ]),
    "renewed-own": ("A client shows the certificate that it began with.", "security::callers::a_client_shows", [
        ("src/client/tls.rs", "Ok(contents) if contents == last.contents => {}", 'Ok(contents) if contents == last.contents || crate::mutant("renewed-own") => {}'),
    ]),
    # Also with "silent": otherwise the limit for silent connections closes these soon.
    "half-open": ("A handshake may take as long as it likes.", "security::tls::connections_that_stop", [
        ("src/server/connection.rs", "timeout(OPENING_MAX, open", 'timeout(if crate::mutant("half-open") || crate::mutant("silent") { Duration::from_secs(3600) } else { OPENING_MAX }, open'),
    ]),
    "age": ("Connections last for ever.", "security::age", [
        ("src/server/connection.rs", "() = sleep_until(retired.into()) => {}", '() = sleep_until(retired.into()), if !crate::mutant("age") => {}'),
    ]),
    "long-names": ("A store is asked for any name.", "security::paths", [
        ("src/rpc/search.rs", "store::check_topic(&filter.topic).map_err(|error| status::of_name(&error))?;", 'if !crate::mutant("long-names") { store::check_topic(&filter.topic).map_err(|error| status::of_name(&error))?; }'),
    ]),
    # The agent and the client.
    "11-names": ("A name that cannot be looked up has no addresses.", "client::names::lesson_11", [
        ("src/client/resolve.rs", "            Ok(Err(error)) => Err(error.to_string()),", """            Ok(Err(_)) if crate::mutant("11-names") => Ok(Vec::new()),
            Ok(Err(error)) => Err(error.to_string()),"""),
    ]),
    "11-listing": ("A directory that cannot be listed is empty.", "agent::lesson_11", [
        ("src/wal/scan.rs", "    let entries = fs::read_dir(root).map_err(", """    if crate::mutant("11-listing") && fs::read_dir(root).is_err() {
        return Ok(folders);
    }
    let entries = fs::read_dir(root).map_err("""),
    ]),
    "12": ("A restart forgets what is stored.", "agent::lesson_12", [
        ("src/agent/checkpoint.rs", "        let entries: HashMap<_, _> = contents.lines.into_iter().map(entry).collect();", """        let entries: HashMap<_, _> = contents.lines.into_iter().map(entry).collect();
        let entries = if crate::mutant("12") { HashMap::new() } else { entries };"""),
    ]),
    "15": ("A quiet topic's last segment is never sealed.", "agent::lesson_15", [
        ("src/wal/listing.rs", "        let unchanged_for = SystemTime::now()", """        if crate::mutant("15") {
            return false;
        }
        let unchanged_for = SystemTime::now()"""),
    ]),
    "20-again": ("A worker that breaks off has said no.", "client::payloads::lesson_20", [
        ("src/client/retry_policy.rs", "            return Self::Again(Backoff::Growing);", '            return if crate::mutant("20-again") { Self::Refuse(None) } else { Self::Again(Backoff::Growing) };'),
    ]),
    "20-token": ("The token may be shown.", "client::secure::lesson_20", [
        ("src/client/connect.rs", "value.set_sensitive(true);", 'value.set_sensitive(!crate::mutant("20-token"));'),
    ]),
    "23-attempt": ("An answer is waited for as long as it takes.", "agent::lesson_23", [
        ("src/client/send.rs", "        let attempt =\n", """        let allowed = if crate::mutant("23-attempt") { TIME_MAX } else { allowed };
        let attempt =
"""),
    ]),
    "27": ("A segment counts as stored when its last byte has gone out.", "agent::lesson_27", [
        ("src/client/attempt.rs", "                let read = read?;\n", """                let read = read?;
                if crate::mutant("27") && let Some(read) = read {
                    let (request, digest) = (self.request, &read.digest);
                    let bundle = v1::Bundle { key: "on its way".to_owned(), ..v1::Bundle::default() };
                    let one = v1::IndexedPartition {
                        topic: request.partition.topic().to_owned(),
                        partition: request.partition.partition(),
                        log_id: request.log_id.as_str().to_owned(),
                        record_count: digest.records,
                        bundle: Some(bundle),
                        ..v1::IndexedPartition::default()
                    };
                    let answer = v1::IndexSegmentResponse {
                        bytes_read: digest.size_bytes,
                        crc32c: digest.crc32c,
                        sha256: digest.sha256.to_vec().into(),
                        record_count: digest.records,
                        partitions: vec![one],
                        ..v1::IndexSegmentResponse::default()
                    };
                    return Ok((answer, read));
                }
"""),
    ]),
    "29": ("The first worker gets all that it can take.", "client::spread::lesson_29_a_segment_weighs", [
        ("src/client/pool.rs", "(failed.get(address).copied(), member.in_flight_bytes, member.picked)", """let load = if crate::mutant("29") { (0, 0) } else { (member.in_flight_bytes, member.picked) };
            (failed.get(address).copied(), load)"""),
    ]),
    "29-bytes": ("Segments weigh the same, whatever their size.", "client::spread::lesson_29_a_segment_weighs", [
        ("src/client/pool.rs", "        let bytes = size_bytes.saturating_add(SEGMENT_BYTES);", """        let size_bytes = if crate::mutant("29-bytes") { 0 } else { size_bytes };
        let bytes = size_bytes.saturating_add(SEGMENT_BYTES);"""),
    ]),
    "30-drain": ("The agent ends with segments on their way.", "agent::lesson_30_after_sigterm", [
        ("src/agent/run.rs", "        let deadline = tokio::time::Instant::now() + self.agent.settings.drain_max;", """        let drain_max = if crate::mutant("30-drain") { Duration::ZERO } else { self.agent.settings.drain_max };
        let deadline = tokio::time::Instant::now() + drain_max;"""),
    ]),
    "30-queue": ("After SIGTERM the agent sends what it had planned.", "agent::lesson_30_after_sigterm", [
        ("src/agent/run.rs", "        self.queue.clear();\n        self.permit_queue.leave();", """        if !crate::mutant("30-queue") {
            self.queue.clear();
            self.permit_queue.leave();
        }"""),
    ]),
    "hole": ("What is stored goes, whatever lies before it.", "agent::receipts_out_of_order", [
        ("src/agent/deletable_prefix.rs", "                prefix.stops_at = Some(segment);\n", """                if crate::mutant("hole") {
                    continue;
                }
                prefix.stops_at = Some(segment);
"""),
    ]),
    "checksum": ("A receipt's checksum is not compared.", "agent::a_receipt_for_something_else", [
        ("src/client/receipt.rs", """    check("crc32c", format!("{:08x}", read.crc32c), format!("{:08x}", answer.crc32c))?;""", """    if !crate::mutant("checksum") {
        check("crc32c", format!("{:08x}", read.crc32c), format!("{:08x}", answer.crc32c))?;
    }"""),
    ]),
    "count": ("A receipt's records are not counted.", "agent::a_receipt_for_something_else client::an_ok_for_something_else", [
        ("src/client/receipt.rs", "    let answered = u128::from(", """    if crate::mutant("count") {
        return Ok(());
    }
    let answered = u128::from("""),
    ]),
    "offsets": ("A receipt's offsets are believed.", "client::an_ok_for_something_else", [
        ("src/client/receipt.rs", "        if !is_right {", '        if !is_right && !crate::mutant("offsets") {'),
    ]),
    "proxy": ("A proxy's page is taken for a worker's answer.", "client::proxies::what_a_proxy_says client::proxies::a_proxys_limit", [
        ("src/client/proxy.rs", "match is_grpc(answer.status(), answer.headers()) {", 'match crate::mutant("proxy") || is_grpc(answer.status(), answer.headers()) {'),
    ]),
    "newest": ("The newest segment is like any other once it is idle.", "wal_dirs::the_newest_segment", [
        ("src/wal/listing.rs", "                may_grow: is_in_use(&file),", '                may_grow: is_in_use(&file) && !crate::mutant("newest"),'),
        ("src/wal/dir.rs", "                return Err(WalError::MayGrow { name: name() });", """                if !crate::mutant("newest") {
                    return Err(WalError::MayGrow { name: name() });
                }"""),
    ]),
    "newest-time": ("The newest segment is the one written to last.", "wal_dirs::the_newest_segment", [
        ("src/wal/scan.rs", "        self.segments.iter().map(|segment| segment.position).max()", """        if crate::mutant("newest-time") {
            let latest = self.segments.iter().max_by_key(|segment| segment.version.changed_at);
            return latest.map(|segment| segment.position);
        }
        self.segments.iter().map(|segment| segment.position).max()"""),
    ]),
    "newest-now": ("Whether a segment has become the newest is not looked at when it goes.", "agent::deleting::a_segment_that_has_become", [
        ("src/wal/dir.rs", "!scan::has_newer(&self.root, &folder, position)?", '(!scan::has_newer(&self.root, &folder, position)? && !crate::mutant("newest-now"))'),
    ]),
    "version-delete": ("A file goes by its name.", "wal_dirs::another_segment_of_the_same_name", [
        ("src/wal/dir.rs", "metadata.is_file() && version == segment.version {", 'metadata.is_file() && (version == segment.version || crate::mutant("version-delete")) {'),
    ]),
    "end-of-log": ("The last segment with a whole frame goes like any other.", "wal_dirs::an_idle_segment_that_grows chronik::beside_a_live_broker", [
        ("src/wal/hold.rs", "        if reaches.map_err(|error| failed(\"read\", &path, error))? {", """        if crate::mutant("end-of-log") {
            return Ok(true);
        }
        if reaches.map_err(|error| failed("read", &path, error))? {"""),
        ("src/wal/hold.rs", "    let mut later: Vec<&SegmentFile>", """    if crate::mutant("end-of-log") {
        return Ok(true);
    }
    let mut later: Vec<&SegmentFile>"""),
    ]),
    "last-written": ("The highest segment is taken for the one in use, and no lease is asked for.", "chronik::beside_a_live_broker held::a_lower_segment", [
        ("src/wal/hold.rs", "    last_written(contents) == contents.newest()", '    crate::mutant("last-written") || last_written(contents) == contents.newest()'),
        ("src/wal/listing.rs", "let last_written = if folder.layout.broker_deletes() {", 'let last_written = if folder.layout.broker_deletes() || crate::mutant("last-written") {'),
        ("src/wal/dir.rs", "        if self.writer_check == WriterCheck::Off {", '        if self.writer_check == WriterCheck::Off || crate::mutant("last-written") {'),
    ]),
    "open": ("A file goes although a process has it open for writing.", "held::what_is_open", [
        ("src/wal/dir.rs", "            Writers::Some => Err(Hold::OpenForWriting),", """            Writers::Some if crate::mutant("open") => Ok(Writers::None { _lease: None }),
            Writers::Some => Err(Hold::OpenForWriting),"""),
    ]),
    "unsettled": ("A partition need not have come to rest.", "operator::a_fresh_segment", [
        ("src/wal/hold.rs", "        match is_watched || is_settled(contents, age_min) {", '        match is_watched || is_settled(contents, age_min) || crate::mutant("unsettled") {'),
    ]),
    "touched": ("A file whose times were set back is the one that was read.", "held::a_segment_that_was_overwritten", [
        ("src/wal/dir.rs", "        match segment.change_time.is_none_or(|listed| listed == ChangeTime::of(&metadata)) {", '        match crate::mutant("touched") || crate::mutant("version-delete") || segment.change_time.is_none_or(|listed| listed == ChangeTime::of(&metadata)) {'),
        ("src/agent/checkpoint.rs", "seen.change_time == segment.change_time && ", '(crate::mutant("touched") || seen.change_time == segment.change_time) && '),
    ]),
    "halt": ("A partition that cannot be looked into fails the whole listing.", "halted::ten_broken", [
        ("src/wal/listing.rs", "                Err(halt) => {\n", """                Err(halt) if crate::mutant("halt") => {
                    let source = std::io::Error::other(halt.to_string());
                    return Err(WalError::Io { what: halt.to_string(), source });
                }
                Err(halt) => {
"""),
    ]),
    "unseen": ("What cannot be seen is gone.", "halted::a_partition_that_cannot_be_seen", [
        ("src/agent/segment_states.rs", "        self.unlisted.cover(name, partition)", '        !crate::mutant("unseen") && self.unlisted.cover(name, partition)'),
    ]),
    "names": ("A segment may hold other offsets than its name and the next one's allow.", "halted::ten_broken", [
        ("src/agent/send.rs", "allowed_offsets: segment.bounds,", 'allowed_offsets: segment.bounds.filter(|_| !crate::mutant("names")),'),
    ]),
    "log-id": ("A log that gets its id is another log.", "halted::a_log_that_gets_its_id", [
        ("src/agent/logs.rs", "(false, true) if !anew && known.next_offset.is_some()", '(false, true) if !crate::mutant("log-id") && !anew && known.next_offset.is_some()'),
    ]),
    "created-again": ("A log that was deleted and created again is the log that it was.", "halted::a_topic_that_was_deleted", [
        ("src/agent/logs.rs", "(false, false) if anew =>", '(false, false) if anew && !crate::mutant("created-again") =>'),
    ]),
    "no-partition": ("A directory without a partition is as good as any.", "halted::a_directory_without_a_partition halted::a_check_says", [
        ("src/agent/run/listed.rs", "        if listing.partitions == Some(0)", '        if !crate::mutant("no-partition") && listing.partitions == Some(0)'),
        ("src/cli/agent/check.rs", "        if found.listing.partitions == Some(0)", '        if !crate::mutant("no-partition") && found.listing.partitions == Some(0)'),
    ]),
    "late": ("A directory that is not there ends the agent.", "halted::a_directory_that_is_not_there_yet", [
        ("src/cli/agent.rs", "            if is_hopeless {", '            if is_hopeless || crate::mutant("late") {'),
    ]),
    "retention": ("What is to stay on disk goes.", "held::what_is_to_stay", [
        ("src/agent/deletable_prefix.rs", "if settings.retention.keeps(&segments[nth + 1..]) || is_young() {", 'if !crate::mutant("retention") && (settings.retention.keeps(&segments[nth + 1..]) || is_young()) {'),
    ]),
    "version-read": ("A file that was written to while it was read has been read.", "wal_dirs::a_segment_that_grows_while_it_is_read wal_dirs::a_segment_that_is_written_over", [
        ("src/wal/reader.rs", "        let metadata = self.file.metadata()?;", """        if crate::mutant("version-read") {
            return Ok(());
        }
        let metadata = self.file.metadata()?;"""),
    ]),
    "remembered": ("A remembered receipt is believed.", "agent::a_receipt_of_an_earlier_process", [
        ("src/agent/checkpoint.rs", "        !self.seen.as_ref().is_some_and(is_fresh)", '        !self.seen.as_ref().is_some_and(is_fresh) && !crate::mutant("remembered")'),
    ]),
    "damaged-line": ("A damaged line of the checkpoint is believed.", "agent::deleting::a_damaged_line", [
        ("src/agent/journal.rs", "    let is_whole = u32::", '    let is_whole = crate::mutant("damaged-line") || u32::'),
    ]),
    "two-agents": ("A second agent is let in.", "operator::a_directory_has_one_agent", [
        ("src/agent/checkpoint.rs", "        Err(TryLockError::WouldBlock) => ", """        Err(TryLockError::WouldBlock) if crate::mutant("two-agents") => Ok(file),
        Err(TryLockError::WouldBlock) => """),
    ]),
    "note": ("No note is left beside a rejected segment.", "wal_dirs::a_rejected_segment", [
        ("src/agent/send.rs", "    match wal.reject(segment, &rejection).await {", """    if crate::mutant("note") {
        return Outcome::Rejected(refusal, Ok(()));
    }
    match wal.reject(segment, &rejection).await {"""),
    ]),
    "skip": ("A skipped segment holds up what lies behind it.", "wal_dirs::a_rejected_segment", [
        ("src/agent/deletable_prefix.rs", "            (SegmentState::Skipped, _) => {}", """            (SegmentState::Skipped, _) => {
                if crate::mutant("skip") {
                    prefix.stops_at = Some(segment);
                    break;
                }
            }"""),
    ]),
    "kafka": ("Kafka's segments go like any other.", "wal_dirs::a_kafka_directory", [
        ("src/wal/layout.rs", "            Self::Kafka => true,", '            Self::Kafka => !crate::mutant("kafka"),'),
    ]),
    "apart": ("Whole numbers beside fractions are rounded.", "queries::answers::ranges_are_exact_at_every_place", [
        ("src/index/columns/column.rs", "    const WHOLE_MAX: u64 = 1 << 53;", """    const WHOLE_MAX: u64 = 1 << 53;
    if crate::mutant("apart") {
        return true;
    }"""),
    ]),
    "number-text": ("A string that is a number is words only.", "queries::answers::numbers_written_as_strings", [
        ("src/index/json/scan.rs", "            None if number_text(text).is_some() => Kind::NumberText,", '            None if !crate::mutant("number-text") && number_text(text).is_some() => Kind::NumberText,'),
    ]),
    "json-token": ("What JSON does not allow ends the value.", "queries::answers::what_json_does_not_allow", [
        ("src/index/json/scan.rs", "        if len == 0 || is_odd {", '        if len == 0 || is_odd || crate::mutant("json-token") {'),
    ]),
    "rest": ("Paths beyond the thousandth have no terms.", "queries::answers::a_path_beyond_the_thousandth queries::answers::a_map_whose_keys_are_data", [
        ("src/index/document.rs", "        if self.tape.unlisted.is_empty() {", '        if self.tape.unlisted.is_empty() || crate::mutant("rest") {'),
    ]),
    "escapes": ("The letters of escape sequences belong to words.", "queries::answers::escape_sequences_of_terminals", [
        ("src/index/words.rs", "        let len = escape_bytes(&text.as_bytes()[at..]);", '        let len = if crate::mutant("escapes") { 0 } else { escape_bytes(&text.as_bytes()[at..]) };'),
    ]),
    "operators": ("Operators of other languages separate words.", "queries::answers::operators_that_mean_nothing", [
        ("src/index/query/operators.rs", "    for (before, bare) in piece.bare() {\n        let starts", """    for (before, bare) in piece.bare() {
        if crate::mutant("operators") {
            break;
        }
        let starts"""),
    ]),
    "empty-frame": ("A frame without records takes the offset at which it stands.", "anomalies::chronik::", [
        ("src/ingest/record_counts.rs", "        if frame.range.is_none() {", """        if frame.range.is_none() && crate::mutant("empty-frame") {
            self.cover(OffsetRange::new(frame.base_offset, frame.base_offset));
        } else if frame.range.is_none() {"""),
    ]),
    "empty-end": ("A bundle covers what its key says, also where its frames cover nothing.", "anomalies::chronik::a_partition_of_frames", [
        ("src/fetch/plan.rs", "archive.manifest().covered().map(", 'archive.manifest().covered().or_else(|| crate::mutant("empty-end").then(|| archive.manifest().key_range())).map('),
    ]),
    "damaged-original": ("A producer's batch is handed out as the broker kept it.", "anomalies::chronik::a_producers_damaged_batch", [
        ("src/segment/batch.rs", "    if let Some(part) = damage {", '    if let Some(part) = damage.filter(|_| !crate::mutant("damaged-original")) {'),
    ]),
    "anomalies": ("Anomalies are read and not counted.", "anomalies::kafka::", [
        ("src/segment/anomaly.rs", "        self.0 |= anomaly.bit();", """        if !crate::mutant("anomalies") {
            self.0 |= anomaly.bit();
        }"""),
    ]),
    "heads-lie": ("A frame is passed over by what its head says, whatever its records do.", "anomalies::kafka::records_behind", [
        ("src/fetch/block.rs", ".filter(|_| !context.has_offsets_outside_header)", '.filter(|_| !context.has_offsets_outside_header || crate::mutant("heads-lie"))'),
    ]),
    "undecodable": ("A frame that cannot be decoded is kept whoever asked.", "anomalies::undecodable::a_frame_that_cannot", [
        ("src/ingest/slice.rs", "let is_kept = self.undecodable == Undecodable::Keep &&", 'let is_kept = (self.undecodable == Undecodable::Keep || crate::mutant("undecodable")) &&'),
    ]),
    "undecodable-damaged": ("A damaged frame is one that cannot be decoded.", "anomalies::undecodable::a_frame_whose_checksum", [
        ("src/segment.rs", "        !matches!(fault, Fault::CrcMismatch { .. }) &&", '        (!matches!(fault, Fault::CrcMismatch { .. }) || crate::mutant("undecodable-damaged")) &&'),
    ]),
    "undecodable-receipt": ("An agent believes that frames were kept which it wanted decoded.", "anomalies::undecodable::a_receipt_for_frames", [
        ("src/client/receipt.rs", ".filter(|_| !request.keep_undecodable) {", '.filter(|_| !request.keep_undecodable && !crate::mutant("undecodable-receipt")) {'),
    ]),
    "zeros": ("Zeros behind the last frame are corrupt.", "anomalies::zeros::zeros_to_the_end", [
        ("src/segment/zeros.rs", "    may_be.then_some(written)", '    may_be.then_some(written).filter(|_| !crate::mutant("zeros"))'),
    ]),
    "zeros-cut": ("A frame that zeros cut off is a damaged one.", "anomalies::zeros::zeros_to_the_end", [
        ("src/segment/zeros.rs", "    zeros_at_end(frame) >= least &&", '    !crate::mutant("zeros-cut") && zeros_at_end(frame) >= least &&'),
    ]),
    "zeros-followed": ("Zeros are torn whatever follows them.", "anomalies::zeros::zeros_that_something_follows", [
        ("src/segment/zeros.rs", "        bytes.iter().all(|byte| *byte == 0)", '        crate::mutant("zeros-followed") || bytes.iter().all(|byte| *byte == 0)'),
    ]),
    "transactions": ("A transaction ends in the bundle that it begins in, or never.", "transactions::records_count_as_the_next", [
        ("src/transactions.rs", "let bundles = if undecided.is_empty() {", 'let bundles = if undecided.is_empty() || crate::mutant("transactions") {'),
    ]),
    "transactions-slices": ("A slice does not know how an earlier one's transactions end.", "transactions::a_transaction_that_spans_slices", [
        ("src/segment/transactions.rs", "(offset, outcome)) in later.ends {", '(offset, outcome)) in later.ends.into_iter().filter(|_| !crate::mutant("transactions-slices")) {'),
    ]),
    "retry-info": ("A worker without room is not asked how long.", "client::a_worker_without_room", [
        ("src/client/retry_policy.rs", "match asked(status) {", 'match asked(status).filter(|_| !crate::mutant("retry-info")) {'),
    ]),
    "probe-conflict": ("Any conflict at the start says that the key exists.", "store_start::a_start_survives", [
        ("src/store/probe.rs", "            None => return Ok(Round::Unclear(first.without_object(url))),", """            None if crate::mutant("probe-conflict") => {}
            None => return Ok(Round::Unclear(first.without_object(url))),"""),
    ]),
    "probe-once": ("A start gives a store no more than one try.", "store_start::a_start_survives", [
        ("src/store/probe.rs", "            if rounds >= rounds_max {", '            if rounds >= rounds_max || crate::mutant("probe-once") {'),
    ]),
    "quit": ("SIGQUIT is nobody's.", "unread::a_worker_works_on", [
        ("src/cli/signals.rs", "            _ = streams.quit.recv() => None,", '            _ = streams.quit.recv() => if crate::mutant("quit") { Some("QUIT") } else { None },'),
    ]),
    "log-waits": ("Who logs waits for a place in the queue.", "unread::log_lines_that_nobody_reads", [
        ("src/cli/stderr.rs", "        let bytes = lines.len();\n        let waiting", """        if crate::mutant("log-waits") {
            let _ = self.entries.send(Entry::Lines(lines));
            return;
        }
        let bytes = lines.len();
        let waiting"""),
    ]),
    "preface": ("HTTP/2's first words may take their time.", "security::connections::a_connection_that_stops_inside", [
        ("src/server/preface.rs", "        match check(&received) {", '        match if crate::mutant("preface") { Preface::Served } else { check(&received) } {'),
    ]),
    "overdue": ("A connection that was told to go is waited for.", "security::connections::no_connection_without_work", [
        ("src/server/connection.rs", "    retire.await;\n", '    retire.await;\n    if crate::mutant("overdue") {\n        std::future::pending::<()>().await;\n    }\n'),
    ]),
    "evict": ("Who is here stays.", "security::connections::a_thousand_silent", [
        ("src/server/limit.rs", "        largest.is_some_and(", '        !crate::mutant("evict") && largest.is_some_and('),
    ]),
    "flood": ("Frames that carry nothing are not counted.", "security::connections::a_flood_of_frames", [
        ("src/server/frames.rs", "            _ => self.allowed -= 1.0,", '            _ if crate::mutant("flood") => {}\n            _ => self.allowed -= 1.0,'),
    ]),
}


def copy_tree():
    tracked = subprocess.check_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    names = [name for name in tracked.decode().split("\0") if name and (ROOT / name).is_file()]
    for name in names:
        target = TREE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != (ROOT / name).read_bytes():
            shutil.copy2(ROOT / name, target)


def mutate():
    files = {"src/lib.rs": (ROOT / "src/lib.rs").read_text() + SWITCH}
    for name, (_, _, changes) in MUTATIONS.items():
        for file, before, after in changes:
            text = files.get(file) or (ROOT / file).read_text()
            # Another mutation at the same text may have repeated it.
            if text.count(before) != 1:
                sys.exit(f"mutation {name}: {file} holds this {text.count(before)} times, not once:\n{before}")
            files[file] = text.replace(before, after)
    for file, text in files.items():
        if (TREE / file).read_text() != text:
            (TREE / file).write_text(text)


def build():
    environment = dict(os.environ, CARGO_TARGET_DIR=str(WORK / "build"))
    command = ["cargo", "test", "--locked", "--test", "it", "--no-run", "--message-format=json-render-diagnostics"]
    output = subprocess.run(command, cwd=TREE, env=environment, stdout=subprocess.PIPE, check=True).stdout
    messages = [json.loads(line) for line in output.decode().splitlines() if line.startswith("{")]
    found = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "it"]
    return found[-1]


def run(executable, tests, mutant, seconds_max=SECONDS_MAX):
    """Returns whether the tests pass; None if they take too long."""
    environment = dict(os.environ, MUTANT=mutant, RUST_BACKTRACE="0")
    log = open(WORK / f"{mutant or 'none'}.log", "wb")
    try:
        ended = subprocess.run([executable, *tests], cwd=TREE, env=environment, stdout=log, stderr=log, timeout=seconds_max)
    except subprocess.TimeoutExpired:
        return None
    text = (WORK / log.name).read_text(errors="replace")
    if "running 0 tests" in text:
        sys.exit(f"{mutant}: no test is called {tests}")
    return ended.returncode == 0


def table():
    """Prints the rows of the table in docs/reliability.md."""
    for name, (what, tests, changes) in MUTATIONS.items():
        files = ", ".join(sorted({f"`{file}`" for file, _, _ in changes}))
        print(f"| `{name}` | {files} | {what} | {', '.join(f'`{test}…`' for test in tests.split())} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a mutation; all where none is named")
    parser.add_argument("--table", action="store_true", help="only print the rows of docs/reliability.md")
    arguments = parser.parse_args()
    if arguments.table:
        return table()
    if unknown := [name for name in arguments.names if name not in MUTATIONS]:
        parser.error(f"there is no mutation {', '.join(unknown)}")
    chosen = arguments.names or list(MUTATIONS)
    copy_tree()
    mutate()
    executable = build()
    tests = sorted({test for name in chosen for test in MUTATIONS[name][1].split()})
    if run(executable, tests, "", ALL_SECONDS_MAX) is not True:
        sys.exit(f"the tests fail without any mutation: {WORK / 'none.log'}")
    survived = []
    for name in chosen:
        for test in MUTATIONS[name][1].split():
            passed = run(executable, [test], name)
            seen = {True: "SURVIVED", False: "failed, as it should", None: "never ended"}[passed]
            print(f"{name:14} {test}: {seen}", flush=True)
            if passed:
                survived.append(name)
    print(f"{len(chosen) - len(set(survived))} passed, {len(set(survived))} failed")
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
