//! Compiles the schema with a protobuf compiler written in Rust: no `protoc` is needed to build.

use std::error::Error;
use std::path::PathBuf;

use protox::prost::Message;

const SCHEMA: &str = "relay/v1/relay.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SCHEMA}");
    let descriptors = protox::compile([SCHEMA], ["."])?;
    let folder = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(folder.join("relay.v1.descriptors"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
