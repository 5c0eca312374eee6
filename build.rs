//! Compiles the protos without protoc: messages and services (tonic), the protobuf JSON mapping (pbjson), and
//! the descriptor set for server reflection.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use protox::prost::Message;

const PROTOS: [&str; 2] = ["walindexer/v1/indexer.proto", "walindexer/v1/search.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let encoded = descriptors.encode_to_vec();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), &encoded)?;
    tonic_prost_build::configure().bytes(".walindexer.v1").compile_fds(descriptors)?;
    pbjson_build::Builder::new().register_descriptors(&encoded)?.build(&[".walindexer.v1"])?;
    Ok(())
}
