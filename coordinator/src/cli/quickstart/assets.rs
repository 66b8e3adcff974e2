//! The bundled model and text, and how they reach the disk.

use crate::cli::failure::{Failure, OrFail as _};
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// A Llama of 3.5 M parameters, trained on windows of 256 tokens.
const MODEL: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../../assets/lab-model/config.json")),
    ("generation_config.json", include_bytes!("../../../assets/lab-model/generation_config.json")),
    ("model.safetensors", include_bytes!("../../../assets/lab-model/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../assets/lab-model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../assets/lab-model/tokenizer_config.json")),
];

/// A snapshot of this project's own sources and documents.
const TEXT: [(&str, &[u8]); 16] = [
    ("documents.txt", include_bytes!("../../../assets/text/documents.txt")),
    ("golden-vectors.txt", include_bytes!("../../../assets/text/golden-vectors.txt")),
    ("proto.txt", include_bytes!("../../../assets/text/proto.txt")),
    ("readme.txt", include_bytes!("../../../assets/text/readme.txt")),
    ("search.txt", include_bytes!("../../../assets/text/search.txt")),
    ("shared-factor-file.txt", include_bytes!("../../../assets/text/shared-factor-file.txt")),
    ("shared-job.txt", include_bytes!("../../../assets/text/shared-job.txt")),
    ("shared-model.txt", include_bytes!("../../../assets/text/shared-model.txt")),
    ("shared-outcome.txt", include_bytes!("../../../assets/text/shared-outcome.txt")),
    ("shared-rope.txt", include_bytes!("../../../assets/text/shared-rope.txt")),
    ("shared-space.txt", include_bytes!("../../../assets/text/shared-space.txt")),
    ("shared-tests.txt", include_bytes!("../../../assets/text/shared-tests.txt")),
    ("worker-attention.txt", include_bytes!("../../../assets/text/worker-attention.txt")),
    ("worker-loop.txt", include_bytes!("../../../assets/text/worker-loop.txt")),
    ("worker-model.txt", include_bytes!("../../../assets/text/worker-model.txt")),
    ("worker-operations.txt", include_bytes!("../../../assets/text/worker-operations.txt")),
];

/// Writes both below `out` and returns their folders.
pub fn write(out: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let (model, text) = (out.join("lab-model"), out.join("text"));
    for (folder, files) in [(&model, &MODEL[..]), (&text, &TEXT[..])] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display())).or_work()?;
        for (name, content) in files {
            write_if_other(&folder.join(name), content)?;
        }
    }
    Ok((model, text))
}

/// Leaves a file alone that has the content already: another run may be reading it.
fn write_if_other(path: &Path, content: &[u8]) -> Result<(), Failure> {
    if std::fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display())).or_work()
}
