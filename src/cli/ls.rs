//! `ls`: which bundles there are.

use super::store::{StoreArgs, exit_of_store};
use super::text::one_line;
use super::{CliError, output, runtime};
use crate::ids::LogId;
use crate::proto::v1;
use crate::registry::{self, Filter};
use crate::rpc::search::listed;
use crate::store::Store;

/// List bundles.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Only those of this topic.
    #[arg(long, env = "WAL_INDEXER_TOPIC", value_name = "TOPIC")]
    topic: Option<String>,

    /// Only those of this partition.
    #[arg(long, env = "WAL_INDEXER_PARTITION", value_name = "N")]
    partition: Option<i32>,

    /// Only those of this incarnation of the log.
    #[arg(long, env = "WAL_INDEXER_LOG_ID", value_name = "ID")]
    log_id: Option<String>,

    /// Only those of the segment with this SHA-256.
    #[arg(long, env = "WAL_INDEXER_SEGMENT", value_name = "HEX", value_parser = sha256)]
    segment: Option<[u8; 32]>,

    /// Print protobuf messages as JSON, one a line.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    #[command(flatten)]
    store: StoreArgs,
}

/// Lists and prints.
pub fn run(args: &LsArgs) -> Result<(), CliError> {
    let store = args.store.open()?;
    let filter = Filter {
        topic: args.topic.clone(),
        partition: args.partition,
        log_id: args.log_id.as_deref().map(LogId::new),
        segment_sha256: args.segment,
        ..Filter::default()
    };
    let found = runtime()?.block_on(registry::find(&store, &filter));
    let found = found.map_err(|error| CliError::new(exit_of_store(&error), "cannot list", &error))?;
    let bundles: Vec<_> = found.bundles.iter().map(|one| listed(&store, one)).collect();
    print(args, &store, &bundles)
}

fn print(args: &LsArgs, store: &Store, bundles: &[v1::ListBundlesResponse]) -> Result<(), CliError> {
    if args.json {
        return bundles.iter().try_for_each(output::json_line);
    }
    if bundles.is_empty() {
        return output::line(&format!("no bundles in {}", store.url()));
    }
    let mut table = output::table(&["partition", "log", "offsets", "from", "to", "size", "key"], &[5]);
    for one in bundles {
        let bundle = one.bundle.clone().unwrap_or_default();
        table.add_row([
            format!("{}/{}", one_line(&one.topic), one.partition),
            one_line(&one.log_id).into_owned(),
            format!("{}..{}", bundle.base_offset, bundle.last_offset),
            output::time_ms(bundle.min_timestamp_ms),
            output::time_ms(bundle.max_timestamp_ms),
            output::bytes(bundle.size_bytes),
            bundle.key,
        ]);
    }
    output::line(&table.trim_fmt())
}

fn sha256(text: &str) -> Result<[u8; 32], String> {
    let mut hash = [0; 32];
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)).take_while(|_| is_hex) {
        let digits = str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
    }
    if is_hex { Ok(hash) } else { Err("64 hexadecimal digits are needed".to_owned()) }
}
