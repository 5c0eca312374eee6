//! The generated code of the gRPC API: messages, services and their JSON mapping. Does not depend on the rest
//! of the crate.
#![allow(missing_docs, clippy::all)]

/// The package `walindexer.v1`, generated from `proto/walindexer/v1/`.
pub mod v1 {
    tonic::include_proto!("walindexer.v1");
    #[cfg(feature = "cli")]
    include!(concat!(env!("OUT_DIR"), "/walindexer.v1.serde.rs"));
}

/// The encoded `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
