//! Names of ByteStream resources.
//!
//! ```text
//! read    [{instance}/]blobs/[{function}/]{hash}/{size}
//! upload  [{instance}/]uploads/{uuid}/blobs/[{function}/]{hash}/{size}[/{anything}]
//! either  {hash}/{size}                                       (BuildStream 1.1)
//! ```
//!
//! `compressed-blobs/{compressor}` may stand for `blobs`. One leading slash is
//! ignored: some clients put it after an empty instance name.
//!
//! The first reserved word ends the instance name, which may not hold one. The
//! tempting alternative, counting segments from the right, breaks on the free
//! text that may follow the size of an upload.

use weir_cluster::Digest;

use super::arguments::{self, RESERVED};

/// Longest resource name. An instance, a digest and some free text fit well.
pub(crate) const NAME_BYTES: usize = 2_048;

/// What a resource name names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ResourceName<'a> {
    pub(crate) instance: &'a str,
    pub(crate) digest: Digest,
}

/// Why a text is no resource name. Never repeats the text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NameError {
    #[error("resource name is empty")]
    Empty,
    #[error("resource name is longer than {NAME_BYTES} bytes")]
    TooLong,
    #[error("resource name has a control character")]
    Unprintable,
    #[error("resource name: instance name {0}")]
    Instance(String),
    #[error("resource name is not of the form {0}")]
    Form(&'static str),
    #[error("resource name: digest function {0} is not supported; use SHA-256")]
    Function(&'static str),
    #[error("resource name: compressor is unknown")]
    Compressor,
    #[error("resource name asks for compression by {0}, which is not offered; use blobs/")]
    Compressed(&'static str),
    #[error("resource name: digest is malformed: {0}")]
    Digest(String),
}

const READ_FORM: &str = "[{instance}/]blobs/{hash}/{size}";
const UPLOAD_FORM: &str = "[{instance}/]uploads/{uuid}/blobs/{hash}/{size}";

/// Digest functions that name themselves in resource names, or that a client
/// may wrongly name.
const FUNCTIONS: [&str; 9] = [
    "sha1",
    "md5",
    "vso",
    "sha384",
    "sha512",
    "murmur3",
    "sha256tree",
    "blake3",
    "gitsha1",
];

const COMPRESSORS: [&str; 4] = ["zstd", "deflate", "brotli", "identity"];

/// Parses the name of a blob to read.
pub(crate) fn read(name: &str) -> Result<ResourceName<'_>, NameError> {
    let (instance, keyword, rest) = split(name, READ_FORM)?;
    let mut rest = Segments(rest);
    match keyword {
        Keyword::None | Keyword::Blobs => {}
        Keyword::Compressed => return Err(compression(&mut rest)),
        Keyword::Uploads => return Err(NameError::Form(READ_FORM)),
    }
    let digest = digest(&mut rest, READ_FORM)?;
    if rest.0.is_some() {
        return Err(NameError::Form(READ_FORM));
    }
    Ok(ResourceName { instance, digest })
}

/// Parses the name of an upload.
pub(crate) fn upload(name: &str) -> Result<ResourceName<'_>, NameError> {
    let (instance, keyword, rest) = split(name, UPLOAD_FORM)?;
    let mut rest = Segments(rest);
    match keyword {
        Keyword::None => {
            let digest = digest(&mut rest, UPLOAD_FORM)?;
            if rest.0.is_some() {
                return Err(NameError::Form(UPLOAD_FORM));
            }
            return Ok(ResourceName { instance, digest });
        }
        Keyword::Uploads => {}
        Keyword::Blobs | Keyword::Compressed => return Err(NameError::Form(UPLOAD_FORM)),
    }
    // Any text may stand for the UUID: clients have sent other forms.
    if rest.next().is_none_or(str::is_empty) {
        return Err(NameError::Form(UPLOAD_FORM));
    }
    match rest.next() {
        Some("blobs") => {}
        Some("compressed-blobs") => return Err(compression(&mut rest)),
        _ => return Err(NameError::Form(UPLOAD_FORM)),
    }
    let digest = digest(&mut rest, UPLOAD_FORM)?;
    Ok(ResourceName { instance, digest })
}

/// The reserved word that ends the instance name.
enum Keyword {
    /// There is none: the two-part form.
    None,
    Blobs,
    Compressed,
    Uploads,
}

/// Cuts a name into its instance, its keyword and what follows that.
fn split<'a>(
    name: &'a str,
    form: &'static str,
) -> Result<(&'a str, Keyword, Option<&'a str>), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES {
        return Err(NameError::TooLong);
    }
    if name.chars().any(arguments::is_unprintable) {
        return Err(NameError::Unprintable);
    }
    let name = name.strip_prefix('/').unwrap_or(name);
    let mut start = 0;
    for segment in name.split('/') {
        let end = start + segment.len();
        if RESERVED.contains(&segment) {
            let keyword = match segment {
                "blobs" => Keyword::Blobs,
                "compressed-blobs" => Keyword::Compressed,
                "uploads" => Keyword::Uploads,
                _ => return Err(NameError::Form(form)),
            };
            let instance = &name[..start.saturating_sub(1)];
            if start == 1 {
                // "//blobs/…": one slash was forgiven, this is the second.
                return Err(NameError::Instance("has an empty segment".into()));
            }
            if let Some(fault) = arguments::instance_fault(instance) {
                return Err(NameError::Instance(fault));
            }
            return Ok((instance, keyword, name.get(end + 1..)));
        }
        start = end + 1;
    }
    Ok(("", Keyword::None, Some(name)))
}

/// Takes `[{function}/]{hash}/{size}`.
fn digest(rest: &mut Segments<'_>, form: &'static str) -> Result<Digest, NameError> {
    let mut hash = rest.next().ok_or(NameError::Form(form))?;
    if let Some(function) = FUNCTIONS.iter().find(|function| **function == hash) {
        return Err(NameError::Function(function));
    }
    // The specification forbids to name SHA-256, but what is meant is plain.
    if hash == "sha256" {
        hash = rest.next().ok_or(NameError::Form(form))?;
    }
    let size = rest.next().ok_or(NameError::Form(form))?;
    let canonical = size == "0" || !size.starts_with('0');
    if !canonical || size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NameError::Digest("size is no decimal number".into()));
    }
    let size = size
        .parse()
        .map_err(|_| NameError::Digest("size is beyond 2^63".into()))?;
    let digest = Digest::parse(hash, size).map_err(|error| NameError::Digest(error.to_string()))?;
    arguments::check_empty(digest).map_err(|error| NameError::Digest(error.message().into()))
}

fn compression(rest: &mut Segments<'_>) -> NameError {
    let compressor = rest.next();
    match COMPRESSORS.iter().find(|name| compressor == Some(**name)) {
        Some(name) => NameError::Compressed(name),
        None => NameError::Compressor,
    }
}

/// The segments that are left; `None` at the end.
struct Segments<'a>(Option<&'a str>);

impl<'a> Iterator for Segments<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0?;
        match rest.split_once('/') {
            Some((segment, rest)) => {
                self.0 = Some(rest);
                Some(segment)
            }
            None => {
                self.0 = None;
                Some(rest)
            }
        }
    }
}

#[cfg(test)]
#[path = "resource_name_tests.rs"]
mod tests;
