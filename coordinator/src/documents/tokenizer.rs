//! The model's tokenizer, and whether its documents begin with a beginning-of-document id.

use ropewalk_shared::model_description::ModelDescription;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// Larger than any tokenizer.json.
const MAX_BYTES: u64 = 256 << 20;
/// Tokens beyond those wanted: where a text is cut, the last few tokens differ from those of the whole text.
const MARGIN_TOKENS: usize = 256;
/// Bytes first tried for each token wanted.
const BYTES_PER_TOKEN: usize = 8;

/// Turns text into the ids a model was trained on.
#[derive(Debug)]
pub struct DocumentTokenizer {
    tokenizer: Tokenizer,
    bos: Option<u32>,
    vocab_size: usize,
}

/// A tokenizer that cannot be used, or cannot tokenise a text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// Not there, or not readable.
    #[error("cannot read {}: {source}; a model folder needs tokenizer.json for text, token ids (--tokens) need none", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too large.
    #[error("{} is larger than any tokenizer ({MAX_BYTES} bytes)", .0.display())]
    TooLarge(PathBuf),
    /// Not a file of its kind.
    #[error("{} cannot be used: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer failed: {0}")]
    Encode(String),
    /// A token id that the model does not have.
    #[error(
        "the tokenizer gives id {id}, but the model's vocabulary has {vocab_size}: tokenizer.json is another model's"
    )]
    TokenId {
        /// The id.
        id: u32,
        /// Number of ids of the model.
        vocab_size: usize,
    },
}

// === impl DocumentTokenizer ===

impl DocumentTokenizer {
    /// Reads `tokenizer.json` of a model's folder, and `tokenizer_config.json` where there is one.
    ///
    /// # Errors
    /// [`TokenizerError`] when a file is missing or is none of its kind.
    pub fn open(model_dir: &Path, description: &ModelDescription) -> Result<Self, TokenizerError> {
        let path = model_dir.join("tokenizer.json");
        let invalid = |path: &Path, reason: String| TokenizerError::Invalid { path: path.to_owned(), reason };
        let content = read(&path)?;
        let mut tokenizer = Tokenizer::from_bytes(&content).map_err(|error| invalid(&path, error.to_string()))?;
        // What the file says of lengths is for training and chat; documents are cut here.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| invalid(&path, error.to_string()))?;

        let path = model_dir.join("tokenizer_config.json");
        let settings: Value = match read(&path) {
            Ok(content) => serde_json::from_slice(&content).map_err(|error| invalid(&path, error.to_string()))?,
            Err(TokenizerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Value::Null,
            Err(error) => return Err(error),
        };
        let bos = beginning(&settings, description.bos_token_id, &tokenizer);
        Ok(Self { tokenizer, bos, vocab_size: description.vocab_size })
    }

    /// The id that every document begins with, where the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The ids of a short text, without a beginning.
    ///
    /// # Errors
    /// [`TokenizerError`] when the tokenizer fails, or is another model's.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding = encoding.map_err(|error| TokenizerError::Encode(error.to_string()))?;
        self.known(encoding.get_ids().to_vec())
    }

    /// The first `length` ids of a document, its beginning included; fewer when it is shorter.
    ///
    /// `prefix` gives about as many bytes of the text as it is asked for, and whether that is all. The ids are those
    /// of the whole text as long as no token's extent depends on text 256 tokens further on.
    pub(super) fn first<'t, E: From<TokenizerError>>(
        &self,
        length: usize,
        mut prefix: impl FnMut(usize) -> Result<(std::borrow::Cow<'t, str>, bool), E>,
    ) -> Result<Vec<u32>, E> {
        let wanted = length.saturating_add(MARGIN_TOKENS);
        let mut bytes = wanted.saturating_mul(BYTES_PER_TOKEN);
        loop {
            let (text, complete) = prefix(bytes)?;
            let encoding = self.tokenizer.encode_fast(text.as_ref(), false);
            let encoding = encoding.map_err(|error| TokenizerError::Encode(error.to_string()))?;
            let ids = encoding.get_ids();
            if ids.len() >= wanted || complete {
                return Ok(self.begin(ids, length)?);
            }
            bytes = bytes.saturating_mul(2);
        }
    }

    /// Puts the beginning first, unless the text brought it along.
    fn begin(&self, ids: &[u32], length: usize) -> Result<Vec<u32>, TokenizerError> {
        // A text without a token is an empty document, and no document of one token.
        let bos = self.bos.filter(|&bos| ids.first().is_some_and(|&first| first != bos));
        let ids: Vec<u32> = bos.into_iter().chain(ids.iter().copied()).take(length).collect();
        self.known(ids)
    }

    /// Ids that the model has.
    fn known(&self, ids: Vec<u32>) -> Result<Vec<u32>, TokenizerError> {
        match ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            Some(&id) => Err(TokenizerError::TokenId { id, vocab_size: self.vocab_size }),
            None => Ok(ids),
        }
    }
}

/// The beginning-of-document id: config.json's, or the one that tokenizer_config.json names and asks for; none where
/// it says `add_bos_token: false`.
fn beginning(settings: &Value, of_config: Option<u32>, tokenizer: &Tokenizer) -> Option<u32> {
    let asked = settings.get("add_bos_token").and_then(Value::as_bool);
    let named = || {
        let token = settings.get("bos_token")?;
        // Either the token or an object that describes it.
        let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
        tokenizer.token_to_id(text)
    };
    match asked {
        Some(false) => None,
        Some(true) => of_config.or_else(named),
        None => of_config,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let io = |source| TokenizerError::Io { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(io)?.len() > MAX_BYTES {
        return Err(TokenizerError::TooLarge(path.to_owned()));
    }
    std::fs::read(path).map_err(io)
}
