//! The `wal-indexer` program: parse, run, exit code.

use std::process::ExitCode;

/// Indexing frees and allocates in sizes from bytes to megabytes on several threads; jemalloc gives memory
/// back to the system where glibc's allocator keeps it, and a worker's resident size is what its operator
/// pays for.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    wal_indexer::cli::main()
}
