use super::*;
use crate::rope::Rescale;
use crate::training::position;

fn spec(mix: Mix) -> TrainSpec {
    TrainSpec { mix, seed: 7, ..TrainSpec::new(10, 64, Rescale::identity(4)) }
}

/// Document `d` is 1 (the beginning), then `1000 d + position`.
fn documents(lengths: &[u32]) -> Vec<Vec<u32>> {
    let document =
        |(d, &length): (usize, &u32)| (0..length).map(|i| if i == 0 { 1 } else { 1000 * (d as u32 + 1) + i }).collect();
    lengths.iter().enumerate().map(document).collect()
}

fn bytes(text: &str) -> Result<Vec<u32>, String> {
    Ok(text.bytes().map(u32::from).collect())
}

#[test]
fn long_sequences_are_cuts_or_documents_one_after_another() {
    let documents = documents(&[200, 30, 20, 1, 0]);
    let sequences = pack(&documents, &spec(Mix::default()), 16, None, 50).unwrap();
    let (mut cuts, mut packed) = (0, 0);
    for sequence in &sequences {
        assert_eq!((sequence.tokens.len(), sequence.window, sequence.counted()), (64, Window::Long, 63));
        sequence.check(0, 10_000).unwrap();
        let starts = sequence.documents.iter().map(|&start| start as usize);
        let ends = starts.clone().skip(1).chain([64]);
        for (start, end) in starts.zip(ends) {
            let part = &sequence.tokens[start..end];
            assert_eq!(part[0], 1, "documents begin with their beginning");
            assert!(part[1..].windows(2).all(|two| two[1] == two[0] + 1), "{part:?}");
        }
        cuts += usize::from(sequence.documents.len() == 1);
        packed += usize::from(sequence.documents.len() > 1);
    }
    assert!(cuts > 5 && packed > 5, "{cuts} cuts, {packed} packed");
    let cut = |sequence: &&TrainSequence| sequence.documents.len() == 1;
    let starts = sequences.iter().filter(cut).filter(|sequence| sequence.tokens[1] == 1001).count();
    assert!((cuts / 5..=4 * cuts / 5).contains(&starts), "{starts} of {cuts} begin at the start");
    assert_eq!(pack(&documents, &spec(Mix::default()), 16, None, 60).unwrap()[..50], sequences);
    let other = TrainSpec { seed: 8, ..spec(Mix::default()) };
    assert_ne!(pack(&documents, &other, 16, None, 50).unwrap(), sequences);
}

#[test]
fn short_windows_are_apart_and_have_their_share() {
    let mix = Mix { short_share: 0.25, ..Mix::default() };
    let sequences = pack(&documents(&[200, 300, 10]), &spec(mix), 16, None, 40).unwrap();
    let short: Vec<&TrainSequence> = sequences.iter().filter(|s| s.window == Window::Original).collect();
    assert_eq!(short.len(), 10);
    for run in sequences.chunks(8) {
        assert_eq!(run.iter().filter(|s| s.window == Window::Original).count(), 2, "evenly");
    }
    for sequence in short {
        assert_eq!(sequence.documents.len(), 4);
        assert_eq!(sequence.passes().count(), 4);
        let whole = |tokens: &[u32]| tokens.len() == 16 || tokens.len() == 10;
        assert!(sequence.passes().all(|(tokens, from)| whole(tokens) && from == 0 && tokens[0] == 1));
    }
}

#[test]
fn prompts_ask_for_what_they_hide_at_any_length() {
    let mix = Mix { short_share: 0.2, retrieval_share: 0.4, retrieval_answers_only: true, ..Mix::default() };
    let spec = TrainSpec { length: 2048, ..spec(mix) };
    let texts = RetrievalTexts { tokenize: &bytes, begin: Some(1) };
    let original = 600;
    // Texts of one token a byte take some 260 of them.
    let sequences = pack(&documents(&[5000, 700]), &spec, original, Some(texts), 60);
    let Err(PackingError::Prompt(PromptError::TooShort { .. })) = sequences else { panic!("{sequences:?}") };
    let words = |text: &str| Ok(text.split_inclusive(" ").map(blake3_id).collect());
    let texts = RetrievalTexts { tokenize: &words, begin: Some(1) };
    let sequences = pack(&documents(&[5000, 700]), &spec, original, Some(texts), 60).unwrap();
    let prompts: Vec<&TrainSequence> = sequences.iter().filter(|s| s.counted_from > 0).collect();
    assert_eq!(prompts.len(), 24);
    assert_eq!(sequences.iter().filter(|s| s.counted_from == 0 && s.window == Window::Original).count(), 12);
    for prompt in &prompts {
        let (tokens, from) = (&prompt.tokens, prompt.counted_from as usize);
        assert_eq!(prompt.window == Window::Original, tokens.len() <= original as usize);
        assert!(tokens.len() <= 2048 && tokens[0] == 1 && tokens[1..].iter().all(|&token| token != 1));
        assert_eq!(prompt.counted(), (tokens.len() - from) as u64);
    }
    let lengths = || prompts.iter().map(|prompt| prompt.tokens.len());
    assert!(lengths().min().unwrap() < 400 && lengths().max().unwrap() > 1200);
    assert_eq!(pack(&documents(&[50]), &spec, 16, None, 1), Err(PackingError::NoTexts));
}

#[test]
fn skips_have_their_share_and_reach_every_distance() {
    let plain = Mix { short_share: 0.25, ..Mix::default() };
    let mix = Mix { skip_share: 0.5, skip_reach: Some(512), ..plain };
    let documents = documents(&[200, 300, 10]);
    let sequences = pack(&documents, &spec(mix), 16, None, 400).unwrap();
    let mut without = sequences.clone();
    without.iter_mut().for_each(|sequence| sequence.gaps.clear());
    assert_eq!(without, pack(&documents, &spec(plain), 16, None, 400).unwrap(), "what is read is the same");
    assert_eq!(sequences[..50], pack(&documents, &spec(mix), 16, None, 50).unwrap());

    let long: Vec<&TrainSequence> = sequences.iter().filter(|sequence| sequence.window == Window::Long).collect();
    assert_eq!((long.len(), long.iter().filter(|sequence| sequence.gaps.is_empty()).count()), (300, 150));
    for (index, sequence) in sequences.iter().enumerate() {
        assert_eq!(sequence.check(index, 10_000), Ok(()));
    }
    let ends = || long.iter().map(|sequence| position(&sequence.gaps, 63)).filter(|&end| end > 63);
    assert!(ends().all(|end| end < 512) && ends().max() > Some(490) && ends().min() < Some(90));
    let places = || long.iter().filter_map(|sequence| sequence.gaps.first()).map(|gap| gap.before);
    assert!(places().min() < Some(6) && places().max() > Some(58) && places().all(|place| (1..64).contains(&place)));
}

/// What is read are parts of one document, each where it stands there; positions spread over the reach, also of a document
/// that is shorter.
#[test]
fn text_is_skipped_along_with_positions() {
    let mix = Mix { skip_share: 0.5, skip_reach: Some(256), skip_text: true, ..Mix::default() };
    let documents = documents(&[900, 200, 64, 20]);
    let sequences = pack(&documents, &spec(mix), 16, None, 400).unwrap();
    assert_eq!(sequences[..50], pack(&documents, &spec(mix), 16, None, 50).unwrap());
    let skipping: Vec<&TrainSequence> = sequences.iter().filter(|sequence| !sequence.gaps.is_empty()).collect();
    assert_eq!(skipping.len(), 200);
    let (mut by_gaps, mut farthest, mut widened) = ([0; 4], 0, 0);
    for sequence in &skipping {
        assert_eq!((sequence.check(0, 10_000), sequence.tokens.len(), sequence.tokens[0]), (Ok(()), 64, 1));
        let end = position(&sequence.gaps, 63);
        assert!(end < 256, "{end}");
        farthest = farthest.max(end);
        by_gaps[sequence.gaps.len()] += 1;
        let document = sequence.tokens[1] / 1000;
        if sequence.documents.len() > 1 || document == 3 {
            assert_eq!(sequence.gaps.len(), 1, "nothing to leave out: positions alone jump");
            continue;
        }
        assert!(sequence.tokens[1..].iter().all(|token| token / 1000 == document), "{:?}", sequence.tokens);
        let text = u64::from(sequence.tokens[63] - sequence.tokens[1]);
        let jumps = sequence.tokens[1..].windows(2).filter(|two| two[1] != two[0] + 1).count();
        // A gap right behind the beginning, which stands for nothing in the document, is no jump between two tokens.
        let first = usize::from(sequence.gaps[0].before == 1);
        assert!(jumps + first >= sequence.gaps.len() && jumps <= sequence.gaps.len(), "{jumps} {:?}", sequence.gaps);
        let spread = end - position(&sequence.gaps, 1);
        assert!(spread >= text, "{spread} {text}");
        if document == 1 {
            assert_eq!((spread, jumps + first), (text, sequence.gaps.len()), "a document with text for all of it");
        }
        widened += usize::from(spread > text);
    }
    assert!(by_gaps[1..].iter().all(|&count| count > 20), "{by_gaps:?}");
    assert!(farthest > 250 && widened > 20, "{farthest} {widened}");
}

fn blake3_id(word: &str) -> u32 {
    10_000 + u32::from(blake3::hash(word.as_bytes()).as_bytes()[0])
}

#[test]
fn nothing_to_read_is_an_answer() {
    for documents in [vec![], vec![vec![]], vec![vec![1]]] {
        assert_eq!(pack(&documents, &spec(Mix::default()), 16, None, 1), Err(PackingError::NoDocuments));
    }
}
