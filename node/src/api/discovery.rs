//! Server reflection, restricted to what clients may call.

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::service::Routes;
use tonic_reflection::server::Builder;

use super::guard::{Guarded, Limits};

/// Package of the services between nodes.
const PRIVATE_PACKAGE: &str = "weir.cluster";

/// Largest reflection request: a name.
const REQUEST_BYTES: usize = 64 << 10;

/// Adds reflection, old and new, that names these services and no others.
pub(crate) fn add(
    mut routes: Routes,
    limits: &std::sync::Arc<Limits>,
    services: &[&str],
) -> Result<Routes, tonic_reflection::server::Error> {
    let files = public_files()?;
    let builder = || {
        services.iter().fold(
            Builder::configure()
                .register_file_descriptor_set(files.clone())
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET),
            |builder, name| builder.with_service_name(*name),
        )
    };
    routes = routes.add_service(Guarded::new(builder().build_v1()?, limits, REQUEST_BYTES));
    let old = builder().build_v1alpha()?;
    Ok(routes.add_service(Guarded::new(old, limits, REQUEST_BYTES)))
}

/// Descriptors of the public protocols. Those between nodes are left out:
/// clients have no business with them.
fn public_files() -> Result<FileDescriptorSet, prost::DecodeError> {
    let mut files = FileDescriptorSet::decode(weir_proto::DESCRIPTORS)?;
    files
        .file
        .retain(|file| !file.package().starts_with(PRIVATE_PACKAGE));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_of_the_cluster_is_shown() {
        let all = FileDescriptorSet::decode(weir_proto::DESCRIPTORS).unwrap();
        let public = public_files().unwrap();
        assert!(public.file.len() < all.file.len());
        assert!(
            public
                .file
                .iter()
                .all(|file| !file.package().starts_with("weir"))
        );
        assert!(
            public
                .file
                .iter()
                .any(|file| file.package() == "google.bytestream")
        );
    }
}
