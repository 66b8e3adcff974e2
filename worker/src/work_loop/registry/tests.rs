//! Models on temporary folders.

use super::*;
use std::fs;
use tempfile::TempDir;

/// A model folder; the seed makes it differ from others.
fn model(root: &Path, name: &str, seed: f32) -> Fingerprint {
    let folder = root.join(name);
    fs::create_dir_all(&folder).unwrap();
    let config = r#"{"model_type": "llama", "max_position_embeddings": 64, "hidden_size": 8, "vocab_size": 16,
        "num_attention_heads": 1, "num_hidden_layers": 1}"#;
    fs::write(folder.join("config.json"), config).unwrap();
    let header = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend_from_slice(header.as_bytes());
    weights.extend_from_slice(&seed.to_le_bytes());
    fs::write(folder.join("model.safetensors"), weights).unwrap();
    fingerprint_dir(&folder).unwrap()
}

fn named(name: &str, fingerprint: Fingerprint) -> ModelName {
    ModelName { name: name.to_owned(), fingerprint }
}

fn registry() -> (TempDir, Registry) {
    let root = TempDir::new().unwrap();
    let registry = Registry::new(root.path().to_owned());
    (root, registry)
}

#[test]
fn a_model_is_found_by_name_and_by_fingerprint() {
    let (root, mut registry) = registry();
    let (a, b) = (model(root.path(), "a", 1.0), model(root.path(), "owner/b", 2.0));
    assert_eq!(registry.find(&named("a", a)).unwrap(), root.path().join("a"));
    assert_eq!(registry.find(&named("elsewhere-called-c", b)).unwrap(), root.path().join("owner/b"));
}

#[test]
fn the_root_may_be_the_model() {
    let (root, _) = registry();
    assert!(!holds_models(root.path()));
    let a = model(root.path(), "a", 1.0);
    let mut registry = Registry::new(root.path().join("a"));
    assert!(holds_models(root.path()) && holds_models(&root.path().join("a")));
    assert_eq!(registry.find(&named("a", a)).unwrap(), root.path().join("a"));
    assert_eq!(registry.find(&named("any-name", a)).unwrap(), root.path().join("a"));
    let failure = registry.find(&named("a", [7; 32].into())).unwrap_err();
    assert_eq!(failure.kind, FailureKind::FingerprintMismatch);
}

#[test]
fn another_model_under_the_name_is_a_mismatch() {
    let (root, mut registry) = registry();
    let a = model(root.path(), "a", 1.0);
    let failure = registry.find(&named("a", [7; 32].into())).unwrap_err();
    assert_eq!(failure.kind, FailureKind::FingerprintMismatch);
    assert!(failure.reason.contains(&a.short()) && failure.reason.contains("070707070707"), "{}", failure.reason);
}

#[test]
fn another_model_under_the_name_hides_none() {
    let (root, mut registry) = registry();
    model(root.path(), "a", 1.0);
    let wanted = model(root.path(), "b", 2.0);
    assert_eq!(registry.find(&named("a", wanted)).unwrap(), root.path().join("b"));
}

#[test]
fn what_could_not_be_read_is_read_again() {
    let (root, mut registry) = registry();
    let a = model(root.path(), "a", 1.0);
    let config = root.path().join("a/config.json");
    let (content, time) = (fs::read(&config).unwrap(), fs::metadata(&config).unwrap().modified().unwrap());
    // Of the same size and time, as an error of a disk or of permissions leaves it.
    let write = |content: &[u8]| {
        fs::write(&config, content).unwrap();
        fs::File::options().append(true).open(&config).unwrap().set_modified(time).unwrap();
    };
    write(&vec![b'x'; content.len()]);
    let failure = registry.find(&named("a", a)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::ModelMissing, "{}", failure.reason);
    assert!(failure.reason.contains("cannot be read as a model"), "{}", failure.reason);
    write(&content);
    assert!(registry.find(&named("a", a)).is_ok());
}

#[test]
fn a_missing_model_names_what_was_looked_for_and_where() {
    let (root, mut registry) = registry();
    let failure = registry.find(&named("big", [7; 32].into())).unwrap_err();
    assert_eq!(failure.kind, FailureKind::ModelMissing);
    for fragment in ["\"big\"", "070707070707", &root.path().display().to_string(), "--model-root", "no model folder"] {
        assert!(failure.reason.contains(fragment), "{}", failure.reason);
    }
    let a = model(root.path(), "a", 1.0);
    let failure = registry.find(&named("big", [7; 32].into())).unwrap_err();
    assert!(failure.reason.contains(&a.short()), "{}", failure.reason);
    // Copied in later, it is found.
    let big = model(root.path(), "big", 2.0);
    assert!(registry.find(&named("big", big)).is_ok());
}

#[test]
fn a_model_that_changes_is_read_again() {
    let (root, mut registry) = registry();
    let before = model(root.path(), "a", 1.0);
    assert!(registry.find(&named("a", before)).is_ok());
    let after = model(root.path(), "a", 2.0);
    // Same sizes; a coarse file clock might not have moved.
    let file = fs::File::options().append(true).open(root.path().join("a/model.safetensors")).unwrap();
    file.set_modified(SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
    assert!(registry.find(&named("a", before)).is_err());
    assert!(registry.find(&named("a", after)).is_ok());
}

#[test]
fn a_name_does_not_lead_out_of_the_root() {
    let (root, _) = registry();
    let a = model(root.path(), "a", 1.0);
    fs::create_dir(root.path().join("inner")).unwrap();
    let mut registry = Registry::new(root.path().join("inner"));
    for name in ["../a", "..", "/", ""] {
        assert_eq!(registry.find(&named(name, a)).unwrap_err().kind, FailureKind::ModelMissing, "{name}");
    }
}
