use super::*;

fn faults(text: &str, overrides: &[&str]) -> Vec<(String, String)> {
    let overrides: Vec<_> = overrides.iter().map(|text| (*text).to_owned()).collect();
    match Config::parse("weir.toml", text, &overrides) {
        Ok(_) => Vec::new(),
        Err(error) => error
            .faults
            .into_iter()
            .map(|fault| (format!("{} {}", fault.place, fault.key), fault.message))
            .collect(),
    }
}

#[test]
fn an_empty_file_is_a_configuration() {
    assert_eq!(faults("", &[]), []);
}

#[test]
fn what_is_written_out_reads_back() {
    let config = Config::default();
    let text = config.to_toml();
    assert_eq!(Config::parse("x", &text, &[]).unwrap().to_toml(), text);
}

/// The sample is the manual of the file: it names every key, at its default.
#[test]
fn the_sample_names_every_key_with_its_default() {
    let sample = include_str!("../../../deploy/config/weir.toml");
    assert_eq!(faults(sample, &[]), []);
    let node = Config::default().node;
    let names = [
        format!("node.name={}", node.name),
        format!("node.host={}", node.host),
    ];
    let read = Config::parse("sample", sample, &names).unwrap();
    assert_eq!(read.to_toml(), Config::default().to_toml());
    let uncommented = sample
        .replace("# client =", "client =")
        .replace("# peer =", "peer =");
    let sample: toml::Table = uncommented.parse().unwrap();
    let all: toml::Table = Config::default().to_toml().parse().unwrap();
    for (section, keys) in &all {
        for key in keys.as_table().unwrap().keys() {
            assert!(
                sample[section].get(key).is_some(),
                "{section}.{key} is not in the sample"
            );
        }
    }
}

#[test]
fn every_fault_is_reported_with_its_line_and_key() {
    let text = "[node]\nname = 7\nzonk = 'a'\nweight = 0\n\n[listen]\nclient = 'here'\n[zork]\n";
    let found = faults(text, &["listen.peer=nowhere", "node"]);
    let places: Vec<_> = found.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(
        places,
        [
            "weir.toml:2 node.name",
            "weir.toml:3 node.zonk",
            "weir.toml:7 listen.client",
            "weir.toml:8 zork",
            "--set listen.peer=nowhere listen.peer",
            "--set node node",
            "weir.toml node.weight",
        ],
        "{found:?}"
    );
    assert!(found[1].1.contains("expected one of"), "{found:?}");
    assert!(found[6].1.contains("from 1 to 100"), "{found:?}");
}

#[test]
fn overrides_win_over_the_file() {
    let text = "[node]\nname = 'one'\n";
    let set = ["node.name=two".to_owned(), "node.weight=3".to_owned()];
    let config = Config::parse("x", text, &set).unwrap();
    assert_eq!((config.node.name.as_str(), config.node.weight), ("two", 3));
}

#[test]
fn a_text_that_is_no_toml_is_one_fault_not_a_loop() {
    assert!(!faults("= = =\n[[[\n\"", &[]).is_empty());
}

#[test]
fn sockets_on_all_addresses_are_told_by_host_name() {
    let all = "0.0.0.0:81".parse().unwrap();
    let one = "10.0.0.1:82".parse().unwrap();
    let told = "cache.example:83".to_owned();
    assert_eq!(AdvertiseConfig::address(None, all, "h"), "h:81");
    assert_eq!(AdvertiseConfig::address(None, one, "h"), "10.0.0.1:82");
    assert_eq!(AdvertiseConfig::address(Some(&told), all, "h"), told);
}
