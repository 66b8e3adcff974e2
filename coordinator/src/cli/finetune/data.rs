//! From documents to training sequences.

use crate::cli::failure::{Failure, OrFail as _};
use crate::cli::options::SourceArgs;
use crate::cli::output::note;
use crate::cli::prepare::ModelFolder;
use crate::documents::{DocumentTokenizer, left_out};
use ropewalk_shared::training::{RetrievalTexts, TrainSequence, TrainSpec, pack};

/// Of one document at most so many windows are read, and of all of them together at most so many tokens, or so many times
/// what the training uses: documents may be larger than memory, and the first of them need not be like the rest.
const WINDOWS: usize = 16;
const TOKENS: u64 = 1 << 26;
const TIMES: u64 = 4;
/// Sequences that are made; a longer training begins again with the first, in another order.
const MAX_SEQUENCES: u64 = 1 << 16;

/// Reads, tokenises and packs the documents of a training. Needs the model's tokenizer where documents are text or
/// prompts are mixed in.
pub fn sequences(folder: &ModelFolder, source: &SourceArgs, spec: &TrainSpec) -> Result<Vec<TrainSequence>, Failure> {
    let count = spec.sequences().min(MAX_SEQUENCES);
    let budget = count.saturating_mul(u64::from(spec.length)).saturating_mul(TIMES).max(TOKENS);
    // What skips text needs documents as long as it reaches.
    let most = (spec.length as usize * WINDOWS).max(spec.reach() as usize);
    let read = folder.source(source)?.whole(most, budget)?;
    let total: usize = read.documents.iter().map(Vec::len).sum();
    let rest = if read.complete { "" } else { "; the rest is not needed and was not read" };
    let binary = left_out(read.binary);
    let long = read.documents.iter().filter(|document| document.len() >= spec.length as usize).count();
    note(format!(
        "{} documents of {total} tokens in all, {long} of them of {} and more{binary}{rest}",
        read.documents.len(),
        spec.length
    ));
    if read.cut > 0 {
        note(format!(
            "{} of them are read to their {most}th token, {WINDOWS} sequences or the reach, and no further",
            read.cut
        ));
    }
    if long == 0 {
        note(format!(
            "no document fills a sequence of {} tokens: each is joined from several, or from one again and again, and shows nothing \
             of what is far apart; give longer documents, or a smaller --length",
            spec.length
        ));
    }

    let prompts = spec.mix.retrieval_share > 0.0;
    let tokenizer =
        prompts.then(|| DocumentTokenizer::open(&folder.path, &folder.description)).transpose().or_input()?;
    let tokenize = |text: &str| match &tokenizer {
        Some(tokenizer) => tokenizer.ids(text).map_err(|error| error.to_string()),
        None => Err("there is no tokenizer".to_owned()),
    };
    let begin = tokenizer.as_ref().and_then(DocumentTokenizer::bos);
    let texts = tokenizer.as_ref().map(|_| RetrievalTexts { tokenize: &tokenize, begin });
    pack(&read.documents, spec, folder.description.original_length, texts, count).or_input()
}
