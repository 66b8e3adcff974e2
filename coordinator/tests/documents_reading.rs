//! Documents: forms, bounds, and messages that name the place.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use ropewalk_coordinator::documents::{DocumentTokenizer, Documents, DocumentsError, SamplePlan};
use ropewalk_shared::model_description::ModelDescription;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A folder with a model whose tokenizer knows the words w0 to w97, an unknown word (98) and a beginning (99).
struct Room {
    dir: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let room = Self { dir: tempfile::tempdir().unwrap() };
        let mut vocab: serde_json::Map<String, Value> = (0..98).map(|id| (format!("w{id}"), json!(id))).collect();
        vocab.insert("<unk>".into(), json!(98));
        vocab.insert("<s>".into(), json!(99));
        let special = json!({"id": 99, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true});
        // Truncation and a beginning added by the post-processor, as many tokenizers are shipped.
        let tokenizer = json!({"version": "1.0",
            "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
            "padding": null, "added_tokens": [special], "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [99], "tokens": ["<s>"]}}},
            "decoder": null, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}});
        room.write("model/tokenizer.json", tokenizer.to_string());
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn tokenizer(&self, bos: Option<u32>, vocab_size: usize) -> DocumentTokenizer {
        DocumentTokenizer::open(&self.path("model"), &description(bos, vocab_size)).unwrap()
    }
}

fn description(bos: Option<u32>, vocab_size: usize) -> ModelDescription {
    let config = json!({"model_type": "llama", "vocab_size": vocab_size, "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 8, "bos_token_id": bos});
    ModelDescription::from_config_json(&config.to_string()).unwrap()
}

fn words(numbers: impl IntoIterator<Item = usize>) -> String {
    numbers.into_iter().map(|n| format!("w{} ", n % 98)).collect()
}

fn all(documents: Documents<'_>, length: usize) -> Result<Vec<Vec<u32>>, DocumentsError> {
    documents.iter()?.map(|document| documents.tokens(&document?, length)).collect()
}

fn read(room: &Room, paths: &[PathBuf], length: usize) -> Result<Vec<Vec<u32>>, DocumentsError> {
    all(Documents::Text { paths, tokenizer: &room.tokenizer(Some(99), 100) }, length)
}

fn parquet(path: &Path, schema: &str, columns: &[&[&str]]) {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let file = fs::File::create(path).unwrap();
    let properties = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(file, schema.into(), properties.into()).unwrap();
    for _ in 0..2 {
        let mut group = writer.next_row_group().unwrap();
        for values in columns {
            let values: Vec<ByteArray> = values.iter().map(|&value| ByteArray::from(value)).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn every_form_gives_the_same_tokens() {
    let room = Room::new();
    let text = "w1 w2 w3";
    let paths = [
        room.write("a.txt", text),
        room.write("notes", text),
        room.write("b.jsonl", format!("{}\n\n{}", json!({"text": text}), json!({"id": 1, "text": text}))),
        room.path("c.parquet"),
        room.path("d.parquet"),
    ];
    let two = "message m { required binary id (UTF8); required binary text (UTF8); }";
    parquet(&paths[3], two, &[&["x"], &[text]]);
    parquet(&paths[4], "message m { required binary body (UTF8); }", &[&[text]]);
    assert_eq!(read(&room, &paths, 10).unwrap(), vec![vec![99, 1, 2, 3]; 8]);
    assert_eq!(read(&room, &paths, 3).unwrap(), vec![vec![99, 1, 2]; 8]);
}

#[test]
fn folders_are_gone_through_in_order_without_hidden_files() {
    let room = Room::new();
    for (name, text) in [("d/b.md", "w2"), ("d/a/z.txt", "w1"), ("d/c.txt", "w3"), ("d/.git/x", "w9"), ("e.txt", "w4")]
    {
        room.write(name, text);
    }
    let tokens = read(&room, &[room.path("e.txt"), room.path("d")], 10).unwrap();
    assert_eq!(tokens, [[99, 4], [99, 1], [99, 2], [99, 3]]);
    fs::create_dir(room.path("nothing")).unwrap();
    assert!(matches!(read(&room, &[room.path("nothing")], 10), Err(DocumentsError::EmptyFolder(_))));
    assert!(matches!(read(&room, &[], 10), Err(DocumentsError::NoPaths)));
}

#[test]
fn what_is_no_text_is_left_out_of_a_folder_and_counted() {
    let room = Room::new();
    room.write("d/a.txt", "w1 w2");
    let image = room.write("d/b.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    room.write("d/c.txt", "w3 w4");
    let (tokenizer, folder) = (room.tokenizer(Some(99), 100), [room.path("d")]);
    let documents = Documents::Text { paths: &folder, tokenizer: &tokenizer };
    let (samples, tally) = documents.in_order(3, 9).unwrap();
    assert_eq!((samples.len(), tally.binary, tally.too_short()), (2, 1, 0));
    let drawn = documents.draw(&SamplePlan { length: 3, search: 1, held_out: 1, seed: 0 }).unwrap();
    assert_eq!((drawn.tally.binary, drawn.tally.long_enough), (1, 2));
    assert!(drawn.tally.to_string().ends_with("; 1 file left out that is no text"), "{}", drawn.tally);
    let whole = documents.whole(10, 1000).unwrap();
    assert_eq!((whole.documents.len(), whole.binary, whole.complete), (2, 1, true));
    // Named itself it is meant, and what is wrong with it is said; so is text in another encoding, wherever it lies.
    assert!(read(&room, &[image], 10).unwrap_err().to_string().contains("b.png: not UTF-8 text"));
    room.write("d/d.txt", b"caf\xe9 w1");
    assert!(read(&room, &folder, 10).unwrap_err().to_string().contains("d.txt: not UTF-8 text"));
}

#[cfg(unix)]
#[test]
fn a_link_to_its_own_folder_ends_in_an_error() {
    let room = Room::new();
    room.write("loop/a.txt", "w1");
    std::os::unix::fs::symlink(room.path("loop"), room.path("loop/again")).unwrap();
    assert!(matches!(
        read(&room, &[room.path("loop")], 10),
        Err(DocumentsError::TooMany { .. } | DocumentsError::Io { .. })
    ));
}

#[test]
fn the_beginning_is_put_first_once_and_only_where_the_model_has_one() {
    let room = Room::new();
    let paths = [room.write("a.txt", "w1"), room.write("b.txt", "<s> w1"), room.write("c.txt", "  \n")];
    let with = |bos| all(Documents::Text { paths: &paths, tokenizer: &room.tokenizer(bos, 100) }, 10).unwrap();
    assert_eq!(with(Some(99)), [vec![99, 1], vec![99, 1], vec![]]);
    assert_eq!(with(None), [vec![1], vec![99, 1], vec![]]);

    let settings = |value: Value| room.write("model/tokenizer_config.json", value.to_string());
    settings(json!({"add_bos_token": false, "bos_token": "<s>"}));
    assert_eq!(room.tokenizer(Some(99), 100).bos(), None);
    settings(json!({"add_bos_token": true, "bos_token": {"content": "<s>"}}));
    assert_eq!(room.tokenizer(None, 100).bos(), Some(99));
    settings(json!({"bos_token": "<s>"}));
    assert_eq!(room.tokenizer(None, 100).bos(), None);
}

#[test]
fn of_a_long_document_only_the_beginning_is_tokenised() {
    let room = Room::new();
    // 40 MB in one line of words of very different lengths, among them one that is cut wherever a cut falls.
    let long = format!("{}{} ", words(0..3000), "x".repeat(30_000)).repeat(1000);
    let path = room.write("long.txt", &long);
    let tokenizer = room.tokenizer(Some(99), 100);
    let paths = [path];
    let tokens = all(Documents::Text { paths: &paths, tokenizer: &tokenizer }, 5000).unwrap().remove(0);
    let expected: Vec<u32> = std::iter::once(99)
        .chain((0..3000).map(|n| n % 98))
        .chain(std::iter::once(98))
        .chain((0..1998).map(|n| n % 98))
        .collect();
    assert_eq!(tokens, expected);
}

#[test]
fn what_cannot_be_read_is_named_with_its_place() {
    let room = Room::new();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("bad.txt", b"w1 \xff w2".to_vec(), "bad.txt: not UTF-8"),
        ("cut.txt", "w1 é".as_bytes()[..4].to_vec(), "cut.txt: not UTF-8"),
        ("bad.jsonl", b"{\"text\": \"w1\"}\n{\"text\": \"\xff\"}\n".to_vec(), "bad.jsonl:2: not UTF-8"),
        ("broken.jsonl", b"{\"text\": \"w1\"}\n\n{\"text\": ".to_vec(), "broken.jsonl:3: not a JSON object"),
        ("list.json", b"[\n{\"text\": \"w1\"}]".to_vec(), "list.json:1: not a JSON object"),
        (
            "field.jsonl",
            b"{\"body\": \"w1\", \"id\": 3}".to_vec(),
            "field.jsonl:1: no \"text\" in this object, which has \"body\", \"id\"",
        ),
        ("type.jsonl", b"{\"text\": 3}".to_vec(), "type.jsonl:1: \"text\" is not a string"),
        ("junk.parquet", b"PAR1 this is none PAR1".to_vec(), "junk.parquet: not a readable Parquet file"),
    ];
    for (name, content, expected) in cases {
        let error = read(&room, &[room.write(name, content)], 10).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let missing = read(&room, &[room.path("nowhere.txt")], 10).unwrap_err().to_string();
    assert!(missing.contains("cannot read") && missing.contains("nowhere.txt"), "{missing}");
}

#[test]
fn a_parquet_file_needs_one_column_of_text() {
    let room = Room::new();
    let path = room.path("two.parquet");
    parquet(&path, "message m { required binary a (UTF8); required binary b (UTF8); }", &[&["x"], &["y"]]);
    let error = read(&room, &[path], 10).unwrap_err().to_string();
    assert!(
        error.contains("two.parquet: no column named text or content") && error.contains("\"a\", \"b\""),
        "{error}"
    );
}

#[test]
fn a_damaged_parquet_file_is_an_error_and_no_panic() {
    let room = Room::new();
    let path = room.path("x.parquet");
    let text = words(0..500);
    parquet(&path, "message m { required binary text (UTF8); }", &[&[text.as_str()]]);
    let good = fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        fs::write(&path, &bad).unwrap();
        // Some bytes are text, and text may be anything; what matters is that this returns.
        let _ = read(&room, std::slice::from_ref(&path), 600);
        fs::write(&path, &good[..at]).unwrap();
        assert!(read(&room, std::slice::from_ref(&path), 600).is_err());
    }
}

#[test]
fn a_tokenizer_that_is_missing_or_another_models_is_named() {
    let room = Room::new();
    let open = |dir: &str| DocumentTokenizer::open(&room.path(dir), &description(None, 100)).unwrap_err().to_string();
    assert!(open("elsewhere").contains("tokenizer.json"));
    room.write("odd/tokenizer.json", "{}");
    assert!(open("odd").contains("cannot be used"));
    let paths = [room.write("a.txt", "w1 w60")];
    let small = room.tokenizer(None, 50);
    let error = all(Documents::Text { paths: &paths, tokenizer: &small }, 10).unwrap_err().to_string();
    assert!(error.contains("a.txt: the tokenizer gives id 60") && error.contains("50"), "{error}");
}

#[test]
fn token_ids_are_used_as_they_are() {
    let room = Room::new();
    let ids = |content: &str| {
        let paths = [room.write("ids.jsonl", content)];
        all(Documents::Tokens { paths: &paths, vocab_size: 100 }, 3)
    };
    assert_eq!(ids("{\"input_ids\": [1, 2, 3, 4]}\n{\"input_ids\": [99]}").unwrap(), [vec![1, 2, 3], vec![99]]);
    for (content, expected) in [
        ("{\"input_ids\": [100]}", "ids.jsonl:1: token id 100 is not below the model's vocabulary of 100"),
        ("{\"input_ids\": [4294967296]}", "token id 4294967296"),
        ("{\"input_ids\": [-1]}", "not a list of token ids"),
        ("{\"input_ids\": \"1\"}", "not a list of token ids"),
        ("{\"text\": \"w1\"}", "no \"input_ids\""),
    ] {
        let error = ids(content).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

// === the draw ===

fn corpus(room: &Room, lengths: &[usize]) -> PathBuf {
    let lines: Vec<String> = lengths
        .iter()
        .enumerate()
        .map(|(at, &length)| json!({"text": words((0..length).map(|n| n * (at + 1) + at))}).to_string())
        .collect();
    room.write("corpus.jsonl", lines.join("\n"))
}

fn plan(search: usize, held_out: usize, seed: u64) -> SamplePlan {
    SamplePlan { length: 100, search, held_out, seed }
}

#[test]
fn a_draw_repeats_with_its_seed_and_its_sets_are_disjoint() {
    let room = Room::new();
    let tokenizer = room.tokenizer(Some(99), 100);
    let paths = [corpus(&room, &[150; 40])];
    let documents = Documents::Text { paths: &paths, tokenizer: &tokenizer };
    let first = documents.draw(&plan(5, 4, 7)).unwrap();
    assert_eq!(first, documents.draw(&plan(5, 4, 7)).unwrap());
    assert_eq!((first.search.len(), first.held_out.len()), (5, 4));
    let mut ids: Vec<_> = first.search.iter().chain(&first.held_out).map(|named| named.sample.id()).collect();
    assert!(first.search.iter().all(|named| named.sample.tokens().len() == 100 && named.sample.tokens()[0] == 99));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 9);
    assert_ne!(first.search, documents.draw(&plan(5, 4, 8)).unwrap().search);
    // More held-out samples do not change those of the search.
    assert_eq!(first.search, documents.draw(&plan(5, 9, 7)).unwrap().search);
}

#[test]
fn a_draw_does_not_depend_on_how_documents_are_spread_over_files() {
    let room = Room::new();
    let tokenizer = room.tokenizer(Some(99), 100);
    let together = [corpus(&room, &[120; 20])];
    let apart: Vec<PathBuf> = fs::read_to_string(&together[0])
        .unwrap()
        .lines()
        .enumerate()
        .map(|(at, line)| room.write(&format!("apart/{}.jsonl", 99 - at), line))
        .collect();
    let ids = |paths: &[PathBuf]| {
        let sets = Documents::Text { paths, tokenizer: &tokenizer }.draw(&plan(3, 3, 1)).unwrap();
        sets.search.iter().chain(&sets.held_out).map(|named| named.sample.id()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&together), ids(&apart));
    assert_eq!(ids(&together), ids(&[room.path("apart")]));
}

#[test]
fn identical_documents_count_once() {
    let room = Room::new();
    let tokenizer = room.tokenizer(Some(99), 100);
    let text = words(0..120);
    // Equal documents, and one that differs only beyond the sample.
    let paths = [room.write("a.txt", &text), room.write("b.txt", &text), room.write("c.txt", text.clone() + "w5")];
    let documents = Documents::Text { paths: &paths, tokenizer: &tokenizer };
    for seed in 0..20 {
        let Err(DocumentsError::TooFew { found, tally, .. }) = documents.draw(&plan(1, 1, seed)) else { panic!() };
        assert_eq!((found, tally.duplicates, tally.long_enough), (1, 2, 3));
        assert!(documents.draw(&plan(1, 0, seed)).is_ok());
    }
}

#[test]
fn too_few_documents_are_counted_by_length() {
    let room = Room::new();
    let tokenizer = room.tokenizer(Some(99), 100);
    let paths = [corpus(&room, &[99, 98, 60, 49, 48, 1, 0])];
    let documents = Documents::Text { paths: &paths, tokenizer: &tokenizer };
    let error = documents.draw(&plan(2, 1, 0)).unwrap_err().to_string();
    assert_eq!(
        error,
        "3 different documents of at least 100 tokens are needed, 1 found (7 documents: 1 of 100 tokens or more, \
         3 of 50 to 99, 2 shorter than 50, 1 empty; the longest of the short ones has 99); add longer documents, or \
         lower the length or the number of samples"
    );
    let (samples, tally) = documents.in_order(50, 2).unwrap();
    assert_eq!(samples.iter().map(|named| named.place.line).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert_eq!(tally.long_enough, 2);
    assert!(documents.in_order(101, 9).is_err());
}
