//! What was released stays: each message, field, value and method of a released contract is in today's
//! contract, with the same meaning. `tests/skew` has a copy of the protos of each release. A copy is never
//! edited after its release.

use std::fs;
use std::path::{Path, PathBuf};

use protox::prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor, ServiceDescriptor,
};
use wal_indexer::proto::DESCRIPTORS;

const FILES: [&str; 2] = ["walindexer/v1/indexer.proto", "walindexer/v1/search.proto"];

fn releases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/skew");
    let mut releases: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|one| one.expect("an entry").path()).collect();
    releases.sort();
    releases
}

fn compiled(folder: &Path) -> DescriptorPool {
    let files =
        protox::compile(FILES, [folder]).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    DescriptorPool::from_file_descriptor_set(files).expect("sound")
}

/// Returns today's contract.
pub fn today() -> DescriptorPool {
    DescriptorPool::decode(DESCRIPTORS).expect("sound")
}

/// Returns what of the contract `old` is missing in `new`, or has changed.
fn broken(old: &DescriptorPool, new: &DescriptorPool) -> Vec<String> {
    let mut broken = Vec::new();
    for message in old.all_messages() {
        match new.get_message_by_name(message.full_name()) {
            Some(now) => broken.extend(broken_fields(&message, &now)),
            None => broken.push(format!("{} is gone", message.full_name())),
        }
    }
    for values in old.all_enums() {
        match new.get_enum_by_name(values.full_name()) {
            Some(now) => broken.extend(broken_values(&values, &now)),
            None => broken.push(format!("{} is gone", values.full_name())),
        }
    }
    for service in old.services() {
        match new.get_service_by_name(service.full_name()) {
            Some(now) => broken.extend(broken_methods(&service, &now)),
            None => broken.push(format!("{} is gone", service.full_name())),
        }
    }
    broken
}

fn broken_fields(old: &MessageDescriptor, new: &MessageDescriptor) -> Vec<String> {
    let shape = |field: FieldDescriptor| {
        let within = field.containing_oneof().map(|one| one.name().to_owned());
        format!(
            "{} {} {:?} {:?} {within:?} {}",
            field.name(),
            field.json_name(),
            field.kind(),
            field.cardinality(),
            field.supports_presence()
        )
    };
    let is_other = |field: &FieldDescriptor| {
        let now = new.get_field(field.number()).map(shape);
        (now.as_ref() != Some(&shape(field.clone()))).then_some(now)
    };
    let tell = |field: FieldDescriptor| {
        is_other(&field).map(|now| format!("{}: {} is now {now:?}", old.full_name(), shape(field)))
    };
    old.fields().filter_map(tell).collect()
}

fn broken_values(old: &EnumDescriptor, new: &EnumDescriptor) -> Vec<String> {
    let is_other = |value: &protox::prost_reflect::EnumValueDescriptor| {
        new.get_value(value.number()).is_none_or(|now| now.name() != value.name())
    };
    let others = old.values().filter(is_other);
    others.map(|value| format!("{}: {} = {}", old.full_name(), value.name(), value.number())).collect()
}

fn broken_methods(old: &ServiceDescriptor, new: &ServiceDescriptor) -> Vec<String> {
    let shapes = |service: &ServiceDescriptor| -> Vec<String> {
        let shape = |method: protox::prost_reflect::MethodDescriptor| {
            let (input, output) = (method.input(), method.output());
            let streams = (method.is_client_streaming(), method.is_server_streaming());
            format!("{} {} {} {streams:?}", method.full_name(), input.full_name(), output.full_name())
        };
        service.methods().map(shape).collect()
    };
    let now = shapes(new);
    shapes(old).into_iter().filter(|method| !now.contains(method)).collect()
}

#[test]
fn nothing_that_was_released_is_gone_or_means_something_else() {
    let today = today();
    let releases = releases();
    assert!(!releases.is_empty());
    for release in releases {
        let broken = broken(&compiled(&release), &today);
        assert!(broken.is_empty(), "{}:\n{}", release.display(), broken.join("\n"));
    }
}

/// Changes that the comparison must notice, and changes that it must allow.
#[test]
fn every_way_to_break_a_contract_is_noticed() {
    let release = releases().pop().expect("one");
    for (is_broken, file, before, after) in [
        (false, 0, "uint64 size_bytes = 1; ", "uint64 size_bytes = 1; string later = 77; "),
        (false, 0, "TORN_TAIL_KEEP = 2;", "TORN_TAIL_KEEP = 2; TORN_TAIL_LATER = 3;"),
        (false, 0, "ObjectSource object = 6;", "ObjectSource object = 6; string later = 77;"),
        (
            false,
            1,
            "service SearchService {",
            "service SearchService { rpc Later(FetchRequest) returns (FetchResponse);",
        ),
        (true, 0, "bytes sha256 = 11;", ""),
        (true, 0, "bytes sha256 = 11;", "bytes sha256 = 12;"),
        (true, 0, "bytes sha256 = 11;", "string sha256 = 11;"),
        (true, 0, "bytes sha256 = 11;", "repeated bytes sha256 = 11;"),
        (true, 0, "bytes sha256 = 11;", "optional bytes sha256 = 11;"),
        (true, 0, "bytes sha256 = 11;", "bytes hash = 11;"),
        (true, 0, "fixed32 crc32c = 4;             // of", "uint32 crc32c = 4; // of"),
        (true, 0, "string log_id = 8;", "oneof log { string log_id = 8; }"),
        (true, 0, "Timings timings = 10;", "Memory timings = 10;"),
        (true, 0, "TORN_TAIL_KEEP = 2;", "TORN_TAIL_KEEP = 3;"),
        (true, 0, "TORN_TAIL_KEEP = 2;", "TORN_TAIL_STORE = 2;"),
        (true, 0, "TORN_TAIL_KEEP = 2;", ""),
        (true, 0, "map<string, uint64> rejected = 12;", "map<string, uint32> rejected = 12;"),
        (true, 1, "rpc Fetch(FetchRequest) returns (stream FetchResponse);", ""),
        (
            true,
            1,
            "rpc Fetch(FetchRequest) returns (stream FetchResponse);",
            "rpc Fetch(FetchRequest) returns (FetchResponse);",
        ),
        (true, 1, "rpc Fetch(FetchRequest)", "rpc Fetch(SearchRequest)"),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        for (nth, name) in FILES.into_iter().enumerate() {
            let text = fs::read_to_string(release.join(name)).expect("a proto");
            let changed = if nth == file { text.replacen(before, after, 1) } else { text.clone() };
            assert!(nth != file || changed != text, "{before} is not there");
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, changed).expect("written");
        }
        let broken = broken(&compiled(&release), &compiled(dir.path()));
        assert_eq!(!broken.is_empty(), is_broken, "{before} → {after}: {broken:?}");
    }
}
