//! Compiles the protos without protoc: messages and services (tonic), the protobuf JSON mapping (pbjson), and
//! the descriptor set for server reflection.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "api")]
    api::compile()?;
    Ok(())
}

#[cfg(feature = "api")]
mod api {
    use std::error::Error;
    use std::path::PathBuf;
    use std::{env, fs};

    use protox::prost::Message;

    const PROTOS: [&str; 3] =
        ["walindexer/v1/indexer.proto", "walindexer/v1/search.proto", "walindexer/v1/archive.proto"];

    pub fn compile() -> Result<(), Box<dyn Error>> {
        let descriptors = protox::compile(PROTOS, ["proto"])?;
        let encoded = descriptors.encode_to_vec();
        let out = PathBuf::from(env::var("OUT_DIR")?);
        fs::write(out.join("descriptors.bin"), &encoded)?;
        let build = tonic_prost_build::configure().bytes(".walindexer.v1");
        let build = build.build_client(cfg!(feature = "client")).build_server(cfg!(feature = "worker"));
        build.compile_fds(descriptors)?;
        #[cfg(feature = "cli")]
        pbjson_build::Builder::new().register_descriptors(&encoded)?.build(&[".walindexer.v1"])?;
        Ok(())
    }
}
