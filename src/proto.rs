//! The generated contract: messages, services, their JSON mapping. Knows nothing of the rest of the crate.
#![allow(missing_docs, clippy::all)]

/// `walindexer.v1`, as `proto/walindexer/v1/` says it.
pub mod v1 {
    tonic::include_proto!("walindexer.v1");
    include!(concat!(env!("OUT_DIR"), "/walindexer.v1.serde.rs"));
}

/// The encoded `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
