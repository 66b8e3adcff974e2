//! What a search starts from besides the published methods: `--init`.
//!
//! ```text
//! FILE          a factor file, JSON or CSV
//! FILE#NAME     one of the sets of a JSON file with "sets", as published factors are collected
//! FOLDER        the folder of a finished search
//! job:ID        a job of the coordinator that the search is launched on
//! ```

use super::factors::read_file;
use super::failure::{Failure, OrFail as _};
use super::output::note;
use crate::client::Client;
use crate::export::parse_factors;
use anyhow::Context as _;
use ropewalk_shared::factor_file::{FactorFile, MAX_BYTES};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::rope::Rescale;
use std::path::Path;

/// How a job is named.
const JOB: &str = "job:";
/// Ratios that differ by less are the same.
const SAME_RATIO: f64 = 1e-9;

/// Factors to start from, and what they were found for.
#[derive(Clone, Debug, PartialEq)]
pub struct Init {
    name: String,
    rescale: Rescale,
    /// Extension ratio; unknown where the file does not say.
    ratio: Option<f64>,
}

// === impl Init ===

impl Init {
    fn of(name: &str, file: &FactorFile) -> Self {
        let lengths = file.target_length.zip(file.original_length);
        let by_lengths = lengths.map(|(target, original)| f64::from(target) / f64::from(original));
        Self { name: name.to_owned(), rescale: file.rescale(), ratio: file.extension_ratio.or(by_lengths) }
    }

    /// The factors for this model stretched by `ratio`.
    fn fitted(self, description: &ModelDescription, ratio: f64) -> Result<Rescale, Failure> {
        let check = |rescale: &Rescale| {
            rescale.check(description.geometry.pairs()).with_context(|| self.name.clone()).or_input()
        };
        check(&self.rescale)?;
        if self.rescale.has_pair_attention() {
            note(format!(
                "{}: its attention factors of single pairs are left out: a search starts without any",
                self.name
            ));
        }
        let rescale = self.rescale.without_pair_attention();
        let Some(own) = self.ratio.filter(|own| (own / ratio - 1.0).abs() > SAME_RATIO) else {
            return Ok(rescale);
        };
        let rescaled = rescale.for_ratio(own, ratio);
        if rescaled == rescale {
            note(format!("{}: taken as it is, for an extension ratio of {own}, to one of {ratio}", self.name));
        } else {
            check(&rescaled)?;
            note(format!("{}: rescaled from an extension ratio of {own} to {ratio}", self.name));
        }
        Ok(rescaled)
    }
}

/// Reads everything that `--init` names for a search that stretches the model by `ratio`; jobs were fetched before.
pub fn read(
    names: &[String],
    fetched: &[Init],
    description: &ModelDescription,
    ratio: f64,
) -> Result<Vec<Rescale>, Failure> {
    let one = |name: &String| {
        let init = match name.strip_prefix(JOB) {
            Some(_) => fetched.iter().find(|init| init.name == *name).cloned().ok_or_else(|| {
                Failure::input_message(format!(
                    "--init {name} names a job of a coordinator, and this command has none: give the folder of a search or \
                     its factors.json"
                ))
            })?,
            None => open(name, description)?,
        };
        init.fitted(description, ratio)
    };
    names.iter().map(one).collect()
}

/// Fetches the factors of the jobs that `--init` names.
pub async fn fetch(names: &[String], client: &Client) -> Result<Vec<Init>, Failure> {
    let mut fetched = Vec::new();
    for name in names {
        if let Some(id) = name.strip_prefix(JOB) {
            let result = client.result(id).await.with_context(|| format!("--init {name}")).or_input()?;
            fetched.push(Init::of(name, &result.factors));
        }
    }
    Ok(fetched)
}

fn open(name: &str, description: &ModelDescription) -> Result<Init, Failure> {
    let path = Path::new(name);
    if path.is_dir() {
        let file = path.join("factors.json");
        if !file.is_file() {
            return Err(Failure::input_message(format!(
                "--init {name}: the folder has no factors.json, so that no search has ended in it"
            )));
        }
        return read_file(&file, description).map(|file| Init::of(name, &file));
    }
    match name.rsplit_once('#').filter(|_| !path.exists()) {
        Some((file, set)) => one_set(name, Path::new(file), set),
        None => read_file(path, description).map(|file| Init::of(name, &file)),
    }
}

/// One of the sets of a file: `{"sets": {NAME: {"rescale_factors": …, "original_length": …, "target_length": …}}}`.
fn one_set(name: &str, path: &Path, set: &str) -> Result<Init, Failure> {
    #[derive(serde::Deserialize)]
    struct Sets {
        sets: std::collections::BTreeMap<String, serde_json::Map<String, serde_json::Value>>,
    }
    let read = || -> anyhow::Result<Sets> {
        let size = std::fs::metadata(path)?.len();
        anyhow::ensure!(size <= MAX_BYTES as u64, "it has {size} bytes, at most {MAX_BYTES} are read");
        Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
    };
    let mut sets = read().with_context(|| format!("{}: cannot read sets of factors", path.display())).or_input()?.sets;
    let Some(mut one) = sets.remove(set) else {
        let known: Vec<&str> = sets.keys().map(String::as_str).take(20).collect();
        return Err(Failure::input_message(format!("{}: no set {set:?}, but {}", path.display(), known.join(", "))));
    };
    // What else is said of a set is for people.
    one.retain(|key, _| {
        ["rescale_factors", "start_tokens", "attention_factor", "original_length", "target_length"]
            .contains(&key.as_str())
    });
    let text = serde_json::Value::Object(one).to_string();
    let read = parse_factors(text.as_bytes(), None).with_context(|| name.to_owned()).or_input()?;
    for notice in &read.notices {
        note(format!("{name}: {notice}"));
    }
    Ok(Init::of(name, &read.file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama() -> ModelDescription {
        let config = r#"{"model_type": "llama", "vocab_size": 100, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1, "max_position_embeddings": 256}"#;
        ModelDescription::from_config_json(config).unwrap()
    }

    /// `1 + (lambda - 1)(s - 1)/(s' - 1)` by hand: from 5 to 9, what lies above 1 doubles. A window that is not extended, as
    /// short ones are recovered in, starts from the factors as they are.
    #[test]
    fn sets_and_folders_are_read_and_rescaled() {
        let folder = tempfile::tempdir().unwrap();
        let sets = folder.path().join("sets.json");
        let set = r#"{"model": "some", "original_length": 100, "target_length": 500, "stage": "second search",
            "rescale_factors": [1.0, 1.5, 3.0, 5.0]}"#;
        std::fs::write(&sets, format!(r#"{{"source": "x", "sets": {{"one": {set}}}}}"#)).unwrap();
        let name = format!("{}#one", sets.display());
        let read_one = |name: &str, ratio| read(&[name.to_owned()], &[], &llama(), ratio);
        assert_eq!(read_one(&name, 9.0).unwrap()[0].factors, [1.0, 2.0, 5.0, 9.0]);
        for ratio in [5.0, 1.0, 0.5] {
            assert_eq!(read_one(&name, ratio).unwrap()[0].factors, [1.0, 1.5, 3.0, 5.0]);
        }
        let other = read_one(&format!("{}#two", sets.display()), 5.0).unwrap_err().to_string();
        assert!(other.contains("\"two\"") && other.contains("one"), "{other}");

        let empty = read_one(&folder.path().display().to_string(), 5.0).unwrap_err().to_string();
        assert!(empty.contains("no factors.json"), "{empty}");
        std::fs::write(
            folder.path().join("factors.json"),
            r#"{"rescale_factors": [1, 2, 3, 4], "extension_ratio": 3}"#,
        )
        .unwrap();
        assert_eq!(read_one(&folder.path().display().to_string(), 2.0).unwrap()[0].factors, [1.0, 1.5, 2.0, 2.5]);
        assert!(read_one("job:x", 2.0).unwrap_err().to_string().contains("names a job"));
        let fetched = [Init { name: "job:x".into(), rescale: Rescale::with_factors(vec![2.0; 4]), ratio: None }];
        assert_eq!(read(&["job:x".into()], &fetched, &llama(), 2.0).unwrap()[0].factors, [2.0; 4]);
    }
}
