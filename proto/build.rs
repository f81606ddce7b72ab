//! Compiles the vendored protocol files with a pure Rust compiler, so that a
//! build needs neither `protoc` nor a C++ toolchain.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: &[&str] = &[
    "build/bazel/remote/execution/v2/remote_execution.proto",
    "build/bazel/remote/asset/v1/remote_asset.proto",
    "google/bytestream/bytestream.proto",
    "google/rpc/status.proto",
    "buildstream/v2/buildstream.proto",
    "v1/peer.proto",
    "v1/raft.proto",
    "v1/admin.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=vendor");
    println!("cargo:rerun-if-changed=cluster");
    let files = protox::compile(FILES, ["vendor", "cluster"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        .bytes(".")
        .compile_fds(files)?;
    Ok(())
}
