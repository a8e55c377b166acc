//! Compiles the protos without protoc.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let files = [
        "ordo/v1/common.proto",
        "ordo/v1/ingest.proto",
        "ordo/v1/work.proto",
        "ordo/v1/delivery.proto",
        "ordo/v1/admin.proto",
        "ordo/internal/v1/entry.proto",
        "ordo/internal/v1/peer.proto",
    ];
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(files, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("ordo.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
