use super::*;
use ropewalk_shared::event::{Event, JobEvent};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::Sample;
use std::path::PathBuf;

fn job() -> JobId {
    "test-0123456789".parse().unwrap()
}

fn event(sequence: u64) -> Event {
    Event { sequence, time_ms: 1, what: JobEvent::Paused }
}

fn record(active_ms: u64) -> JobRecord {
    JobRecord { active_ms, ..JobRecord::new(5) }
}

/// What a kill at this moment leaves behind.
fn killed(store: &Store) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::create_dir_all(path.join("blobs")).unwrap();
    for entry in std::fs::read_dir(store.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
        }
    }
    (folder, path)
}

#[test]
fn what_was_flushed_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (rescale, sample) = (Rescale::identity(4).id(), SampleId::from([3; 32]));
    for step in 1..=50 {
        let mut batch = Batch::default();
        batch.job(&job(), &record(step));
        batch.event(&job(), &event(step));
        let loss = Loss { nll_sum: if step % 2 == 0 { f64::NAN } else { 0.1 * step as f64 }, tokens: step };
        batch.result(&job(), rescale, sample, loss);
        batch.candidate_failure(&job(), rescale, &"long ".repeat(step as usize * 1000));
        store.apply(batch).unwrap();
        store.flush().unwrap();
        if step % 10 != 0 {
            continue;
        }
        let (_folder, path) = killed(&store);
        let again = Store::open(&path).unwrap();
        assert_eq!(again.jobs().unwrap(), [(job(), Ok(record(step)))]);
        assert_eq!(again.events(&job(), 1, step, 1000).unwrap().len() as u64, step);
        let result = again.result(&job(), rescale, sample).unwrap().unwrap();
        assert!(result.tokens == step && result.nll_sum.is_nan(), "bit for bit: {result:?}");
        let reason = again.candidate_failure(&job(), rescale).unwrap().unwrap();
        assert_eq!(reason.len() as u64, step * 5000);
        assert!(std::fs::read_dir(path.join("blobs")).unwrap().next().is_none(), "nothing lies outside of the log");
    }
}

#[test]
fn what_was_not_flushed_is_there_as_a_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for step in 1..=400 {
        let mut batch = Batch::default();
        // Two ends of the key space, and values of all sizes between them.
        batch.event(&job(), &event(step));
        batch.strategy_text(&job(), &"x".repeat(step as usize * 97 % 40_000));
        batch.job(&job(), &record(step));
        store.apply(batch).unwrap();
        if step % 7 == 0 {
            store.flush().unwrap();
        }
        if step % 40 != 3 {
            continue;
        }
        let (_folder, path) = killed(&store);
        let again = Store::open(&path).unwrap();
        let found = again.jobs().unwrap().first().map_or(0, |(_, record)| record.as_ref().unwrap().active_ms);
        assert!(found >= step / 7 * 7, "flushed up to {}, found {found}", step / 7 * 7);
        assert_eq!(again.events(&job(), 1, found, 1000).unwrap().len() as u64, found);
        assert!(again.events(&job(), found + 1, found + 1, 1).is_err(), "half a batch");
        if found > 0 {
            let text: String = again.record("text", &keys::strategy(&job())).unwrap().unwrap();
            assert_eq!(text.len() as u64, found * 97 % 40_000);
        }
    }
}

#[test]
fn slopes_come_back_to_the_last_bit_and_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let rescale = ropewalk_shared::rope::Rescale::with_factors(vec![2.0]).id();
    let sample = |number| SampleId::from([number; 32]);
    // The second is cut into parts; neither infinity nor a negative zero is changed.
    let slopes = [vec![0.1 + 0.2, f64::INFINITY, -0.0], vec![1e-300; 8192]].map(|log_factors| LossSlope {
        log_factors,
        log_attention_factor: f64::NAN,
        log_pair_attention: Vec::new(),
    });
    // With derivatives by the attention factors of pairs, and without, as all were written once.
    let [short, long] = slopes;
    let pairs = LossSlope { log_pair_attention: vec![f64::NEG_INFINITY, 0.3, -0.0], ..short.clone() };
    let slopes = [short, long, pairs];
    let mut batch = Batch::default();
    for (slope, number) in slopes.iter().zip(0..) {
        batch.slope(&job(), rescale, sample(number), slope);
    }
    store.apply(batch).unwrap();
    for (slope, number) in slopes.iter().zip(0..) {
        let found = store.slope(&job(), rescale, sample(number)).unwrap().unwrap();
        assert!(found.log_attention_factor.is_nan());
        let bits = |slope: &LossSlope| {
            let lists = [&slope.log_factors, &slope.log_pair_attention];
            lists.map(|list| list.iter().map(|number| number.to_bits()).collect::<Vec<_>>())
        };
        assert_eq!(bits(&found), bits(slope));
    }
    assert_eq!(store.slope(&job(), rescale, sample(7)).unwrap(), None);
    assert_eq!(store.results(&job()).unwrap(), 0, "a slope is no result of its own");
}

#[test]
fn every_run_has_a_number_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let [first, others @ ..] = [(); 3].map(|()| Store::open(folder.path()).unwrap().epoch());
    assert_eq!(others, [first + 1, first + 2]);
    // One that has counted from 1 counts on.
    let store = Store::open(folder.path()).unwrap();
    store.state.insert(keys::meta("epoch"), &7_u32.to_be_bytes()).unwrap();
    drop(store);
    assert_eq!(Store::open(folder.path()).unwrap().epoch(), 8);
}

/// Workers outlive the store of their coordinator, and their ids must not be those of others in the next one.
#[test]
fn stores_do_not_share_the_numbers_of_their_runs() {
    let epoch = || Store::open(tempfile::tempdir().unwrap().path()).unwrap().epoch();
    let epochs = [(); 3].map(|()| epoch());
    assert!(epochs.iter().all(|epoch| (100_000..1_000_000).contains(epoch)), "{epochs:?}");
    // Two of them may be alike once in a million times.
    assert!(epochs.iter().any(|epoch| *epoch != epochs[0]), "{epochs:?}");
}

#[test]
fn a_store_in_use_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let _store = Store::open(folder.path()).unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("--store"), "{error}");
}

#[test]
fn a_store_of_another_version_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.state.insert(keys::meta("schema"), b"2").unwrap();
    drop(store);
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(&error, StoreError::Version { found, supported: 1, .. } if found == "2"), "{error:?}");
    assert!(error.to_string().contains("use the program that wrote it"), "{error}");
    // Nothing was changed by looking.
    assert!(Store::open(folder.path()).is_err());
}

#[test]
fn folders_that_are_no_stores_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::NotAStore { .. })));
    assert!(matches!(Store::open(&folder.path().join("notes.txt")), Err(StoreError::Io { .. })));
    let other = tempfile::tempdir().unwrap();
    let db = sled::open(other.path()).unwrap();
    db.insert("theirs", "data").unwrap();
    drop(db);
    assert!(Store::open(other.path()).is_err());
}

/// sled writes its settings before its file; a kill between the two leaves a folder that is no store yet.
#[test]
fn a_folder_that_was_begun_and_no_more_becomes_a_store() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path()).unwrap());
    std::fs::remove_file(folder.path().join("db")).unwrap();
    let begun: std::collections::BTreeSet<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(begun, ["blobs", "conf"].map(Into::into).into());
    let first = Store::open(folder.path()).unwrap().epoch();
    assert_eq!(Store::open(folder.path()).unwrap().epoch(), first + 1);
    // With anything else beside them, they may be somebody's.
    std::fs::remove_file(folder.path().join("db")).unwrap();
    std::fs::write(folder.path().join("blobs").join("1"), "theirs").unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::NotAStore { .. })));
}

#[test]
fn a_damaged_record_is_an_error_and_no_crash() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut batch = Batch::default();
    batch.job(&job(), &record(1));
    batch.job(&"test-9".parse().unwrap(), &record(1));
    batch.event(&job(), &event(1));
    store.apply(batch).unwrap();
    let damage: [&[u8]; 6] = [b"", b"\x01", b"\x01\x01{\"stage\":", b"\x01\x02{}", b"\x09", b"\x02\xff\xff\xff\xff"];
    for bytes in damage {
        store.state.insert(keys::job_record(&job()), bytes).unwrap();
        let jobs = store.jobs().unwrap();
        let [(_, Err(error)), (other, Ok(_))] = jobs.as_slice() else { panic!("{jobs:?}") };
        assert!(matches!(error, StoreError::Corrupt { what: "a job record", .. }), "{error:?}");
        assert_eq!(other.as_str(), "test-9", "the others can be read");
    }
    store.state.insert(keys::event(&job(), 1), b"\x01\x01{}").unwrap();
    assert!(matches!(store.events(&job(), 1, 1, 10), Err(StoreError::Corrupt { what: "an event", .. })));
    store.state.insert(keys::result(&job(), Rescale::identity(1).id(), SampleId::from([0; 32])), b"short").unwrap();
    let result = store.result(&job(), Rescale::identity(1).id(), SampleId::from([0; 32]));
    assert!(matches!(result, Err(StoreError::Corrupt { what: "a result", .. })));
    assert!(store.spec(&job()).is_err() && store.failure().is_none(), "reading breaks nothing");
}

#[test]
fn a_damaged_file_is_an_error_and_no_crash() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let sample = Sample::new((0..200_000).collect()).unwrap();
    store.put_sample(sample.id(), &sample).unwrap();
    drop(store);
    let database = folder.path().join("db");
    let whole = std::fs::read(&database).unwrap();
    for place in [0, 100, whole.len() / 3, whole.len() / 2] {
        let mut bytes = whole.clone();
        bytes[place..place + 64].fill(0xa5);
        std::fs::write(&database, bytes).unwrap();
        // Whatever of it can still be read is right; the rest is an error.
        if let Ok(store) = Store::open(folder.path())
            && let Ok(Some(read)) = store.sample(sample.id())
        {
            assert_eq!(read, sample);
        }
    }
}

#[test]
fn what_counts_is_kept_with_a_sample() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, counted) = (Sample::new((0..9000).collect()), Sample::counted((0..9000).collect(), 8990));
    let (whole, counted) = (whole.unwrap(), counted.unwrap());
    let store = Store::open(folder.path()).unwrap();
    for sample in [&whole, &counted] {
        store.put_sample(sample.id(), sample).unwrap();
        assert_eq!(store.sample_shape(sample.id()), Ok(Some(sample.shape())));
        assert_eq!(store.sample(sample.id()), Ok(Some(sample.clone())));
    }
}

/// The disk runs low while a sample is written: it is refused, and everything else goes on.
#[test]
fn a_sample_without_room_is_refused_and_breaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    // Three batches of a million bytes.
    let sample = Sample::new((0..700_000).collect()).unwrap();
    let asked = std::cell::RefCell::new(Vec::new());
    let full = |path: &Path, bytes: u64| {
        asked.borrow_mut().push(bytes);
        let error = StoreError::NoRoomForSample { path: path.to_owned(), free: 200 << 20, needed: 300 << 20 };
        if asked.borrow().len() == 3 { Err(error) } else { Ok(()) }
    };
    let error = store.put_sample_where(sample.id(), &sample, full).unwrap_err();
    assert!(error.to_string().contains("has 200 MiB left and 300 would be needed"), "{error}");
    let asked = asked.into_inner();
    assert!(asked[0] == 2_800_000 && asked.is_sorted_by(|a, b| a > b), "asked before each batch: {asked:?}");
    assert_eq!((store.failure(), store.sample_shape(sample.id())), (None, Ok(None)));
    let mut batch = Batch::default();
    batch.job(&job(), &record(1));
    store.apply(batch).unwrap();
    store.put_sample(sample.id(), &sample).unwrap();
    assert_eq!(store.sample(sample.id()), Ok(Some(sample)));
}

#[test]
fn samples_are_kept_whole_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for tokens in [2, 4096, 4097, 300_000] {
        let sample = Sample::new((0..tokens).map(|token| token * 7).collect()).unwrap();
        assert_eq!(store.sample_shape(sample.id()), Ok(None));
        assert_eq!(store.sample(sample.id()), Ok(None));
        store.put_sample(sample.id(), &sample).unwrap();
        store.put_sample(sample.id(), &sample).unwrap();
        assert_eq!(store.sample_shape(sample.id()), Ok(Some(sample.shape())));
        let (_folder, path) = killed(&store);
        assert_eq!(Store::open(&path).unwrap().sample(sample.id()), Ok(Some(sample.clone())));
        if tokens == 300_000 {
            store.samples.insert(keys::part(sample.id().as_bytes(), 3), vec![0; 16 << 10]).unwrap();
            let error = store.sample(sample.id()).unwrap_err();
            assert!(error.to_string().contains("have another address"), "{error}");
            store.samples.remove(keys::part(sample.id().as_bytes(), 3)).unwrap();
            assert!(matches!(store.sample(sample.id()), Err(StoreError::Corrupt { .. })));
        }
    }
}

#[test]
fn after_a_failed_write_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let full = || Err(sled::Error::Io(std::io::Error::from(std::io::ErrorKind::StorageFull)));
    let error = store.write::<()>("flushing", full).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("free 32 MiB"), "{error}");
    assert_eq!(store.flush(), Err(error.clone()));
    assert_eq!(store.apply(Batch::default()), Err(error.clone()));
    assert_eq!(store.failure(), Some(&error));
}
