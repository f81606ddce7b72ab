use super::*;

const UUID: &str = "9b9a4b3e-2b5c-4f7e-9d0e-111111111111";

fn sample() -> Digest {
    Digest::of(b"weir")
}

#[test]
fn every_form_that_clients_send_is_understood() {
    let digest = sample();
    for (name, instance) in [
        (format!("blobs/{digest}"), ""),
        (format!("/blobs/{digest}"), ""),
        (format!("blobs/sha256/{digest}"), ""),
        (format!("main/blobs/{digest}"), "main"),
        (format!("/main/blobs/{digest}"), "main"),
        (format!("a/b c/d/blobs/{digest}"), "a/b c/d"),
        (format!("{digest}"), ""),
    ] {
        assert_eq!(read(&name), Ok(ResourceName { instance, digest }), "{name}");
    }
    for (name, instance) in [
        (format!("uploads/{UUID}/blobs/{digest}"), ""),
        (format!("/uploads/{UUID}/blobs/{digest}"), ""),
        (format!("uploads/no uuid at all/blobs/{digest}"), ""),
        (format!("uploads/blobs/blobs/{digest}"), ""),
        (format!("a/b/uploads/{UUID}/blobs/{digest}"), "a/b"),
        (format!("uploads/{UUID}/blobs/sha256/{digest}"), ""),
        (format!("uploads/{UUID}/blobs/{digest}/file.txt"), ""),
        (
            format!("uploads/{UUID}/blobs/{digest}/a/uploads/../b//"),
            "",
        ),
        (format!("{digest}"), ""),
    ] {
        assert_eq!(
            upload(&name),
            Ok(ResourceName { instance, digest }),
            "{name}"
        );
    }
}

#[test]
fn the_fault_is_named() {
    let digest = sample();
    let hash = digest.hash_hex();
    for (name, expected) in [
        (String::new(), NameError::Empty),
        ("x".repeat(NAME_BYTES + 1), NameError::TooLong),
        (format!("blobs/{digest}\n"), NameError::Unprintable),
        (
            format!("blobs/blake3/{digest}"),
            NameError::Function("blake3"),
        ),
        (
            format!("compressed-blobs/zstd/{digest}"),
            NameError::Compressed("zstd"),
        ),
        (
            format!("compressed-blobs/lzma/{digest}"),
            NameError::Compressor,
        ),
        (
            format!("uploads/{UUID}/blobs/{digest}"),
            NameError::Form(READ_FORM),
        ),
        (format!("blobs/{digest}/more"), NameError::Form(READ_FORM)),
        (format!("blobs/{hash}"), NameError::Form(READ_FORM)),
    ] {
        assert_eq!(read(&name), Err(expected), "{name:?}");
    }
}

/// Names that must be refused as read and as upload.
pub(crate) fn hostile_names() -> Vec<String> {
    let digest = sample();
    let hash = digest.hash_hex();
    let mut digests = vec![
        String::new(),
        "/".into(),
        "//".into(),
        hash.clone(),
        format!("{hash}/"),
        format!("/{hash}/4"),
        format!("{hash}//4"),
        format!("{hash}/-1"),
        format!("{hash}/+4"),
        format!("{hash}/04"),
        format!("{hash}/0x4"),
        format!("{hash}/4.0"),
        format!("{hash}/4e1"),
        format!("{hash}/ 4"),
        format!("{hash}/4 "),
        format!("{hash}/four"),
        format!("{hash}/٤"),
        format!("{hash}/0"),
        format!("{hash}/9223372036854775808"),
        format!("{hash}/99999999999999999999999999"),
        format!("{}/4", hash.to_uppercase()),
        format!("{}/4", &hash[1..]),
        format!("{}0/4", hash),
        format!("{}/4", &hash[..32]),
        format!("{}/4", &hash[..40]),
        format!("{hash}{hash}/4"),
        format!("{}g/4", &hash[1..]),
        format!("{} /4", &hash[1..]),
        format!("{}é/4", &hash[2..]),
        format!("0x{}/4", &hash[2..]),
        format!("../{}/4", &hash[3..]),
        format!("..%2f..%2fetc%2fpasswd/4"),
        "../../etc/passwd".into(),
        "..\\..\\windows".into(),
        "*/4".into(),
        "$(reboot)/4".into(),
        "{hash}/{size}".into(),
    ];
    for function in FUNCTIONS {
        digests.push(format!("{function}/{hash}/4"));
    }
    digests.push(format!("sha256/sha256/{hash}/4"));
    digests.push(format!("SHA256/{hash}/4"));
    let mut names = vec![
        String::new(),
        "/".into(),
        "//".into(),
        "\0".into(),
        ".".into(),
        "..".into(),
        "blobs".into(),
        "uploads".into(),
        "uploads/".into(),
        "compressed-blobs".into(),
        "a".repeat(NAME_BYTES + 1),
        "a/".repeat(NAME_BYTES / 2),
        "/".repeat(NAME_BYTES),
        format!("{}blobs/{digest}", "/".repeat(3)),
    ];
    for bad in &digests {
        names.push(format!("blobs/{bad}"));
        names.push(format!("main/blobs/{bad}"));
        names.push(format!("uploads/{UUID}/blobs/{bad}"));
        names.push(format!("main/uploads/{UUID}/blobs/{bad}"));
    }
    let long = "i".repeat(arguments::INSTANCE_BYTES + 1);
    for instance in [
        "/",
        ".",
        "..",
        "a/..",
        "../a",
        "a/./b",
        "a//b",
        "/a",
        "a/",
        "a\\b",
        "\\\\host\\share",
        "actions",
        "actionResults",
        "operations",
        "capabilities",
        "a/operations/b",
        "a\0b",
        "a\nb",
        "a\rb",
        "a\tb",
        "a\u{1b}[31mb",
        "\u{7f}",
        "\u{85}",
        "\u{200b}",
        "\u{202e}",
        "\u{2066}",
        "\u{feff}a",
        "~/..",
        "C:\\",
        "a/blobs",
        "uploads",
        &long,
    ] {
        names.push(format!("{instance}/blobs/x/{digest}"));
        names.push(format!("/{instance}/blobs/{digest}/0/"));
        names.push(format!("{instance}/uploads/{UUID}/blob/{digest}"));
        names.push(format!("{instance}/uploads//blobs/{digest}"));
    }
    for compressor in [
        "zstd", "deflate", "brotli", "identity", "", "gzip", "..", "\0",
    ] {
        names.push(format!("compressed-blobs/{compressor}/{digest}"));
        names.push(format!(
            "uploads/{UUID}/compressed-blobs/{compressor}/{digest}"
        ));
    }
    names.extend([
        format!("uploads/{UUID}/{digest}"),
        format!("uploads/{UUID}/uploads/{digest}"),
        format!("uploads/blobs/{digest}"),
        format!("x/{digest}"),
        format!("{digest}/x"),
        format!("{digest}/blobs"),
    ]);
    names
}

#[test]
fn hostile_names_are_refused() {
    let names = hostile_names();
    assert!(names.len() >= 300, "{} names", names.len());
    for name in names {
        assert!(read(&name).is_err(), "read {name:?}");
        assert!(upload(&name).is_err(), "upload {name:?}");
    }
}

#[test]
fn instance_names_with_faults_are_refused_in_good_names() {
    let digest = sample();
    for instance in [
        "/",
        ".",
        "..",
        "a//b",
        "a/../b",
        "operations",
        "a\\b",
        "\u{202e}",
    ] {
        assert!(
            read(&format!("{instance}/blobs/{digest}")).is_err(),
            "{instance:?}"
        );
        let name = format!("{instance}/uploads/{UUID}/blobs/{digest}");
        assert!(upload(&name).is_err(), "{instance:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_breaks_the_parser(name in ".{0,80}") {
        let _ = (read(&name), upload(&name));
    }

    #[test]
    fn names_made_of_real_words_hold_what_they_were_made_of(
        words in proptest::collection::vec(
            proptest::sample::select(vec!["", "a", "..", "blobs", "uploads", "sha256", "u", "4"]), 0..8)
    ) {
        let digest = sample();
        let name = format!("{}/{digest}", words.join("/"));
        for parsed in [read(&name), upload(&name)].into_iter().flatten() {
            proptest::prop_assert_eq!(parsed.digest, digest);
            proptest::prop_assert!(arguments::instance_fault(parsed.instance).is_none());
        }
    }
}
