//! Messages that no client of ours would send: refused with a reason, and nothing else happens.

use anyhow::{Context as _, Result, ensure};
use ropewalk_shared::sample::Sample;
use ropewalk_shared::wire::pb::report_response::Verdict;
use ropewalk_shared::wire::pb::ropewalk_client::RopewalkClient;
use ropewalk_shared::wire::pb::work_client::WorkClient;
use ropewalk_shared::wire::pb::{self, unit_report::Outcome};
use ropewalk_shared::wire::{MAX_CHUNK_BYTES, chunks};
use ropewalk_tests::models;
use ropewalk_tests::process::{Coordinator, Worker};
use ropewalk_tests::search::{Search, factors, wait_done};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A coordinator, and a connection to each of its services without any checks on this side.
struct Raw {
    folder: TempDir,
    coordinator: Coordinator,
    client: RopewalkClient<Channel>,
    work: WorkClient<Channel>,
}

impl Raw {
    async fn start() -> Result<Self> {
        let folder = TempDir::new()?;
        let coordinator = Coordinator::start(folder.path())?;
        let channel = Channel::from_shared(coordinator.url.clone())?.connect().await?;
        let client = RopewalkClient::new(channel.clone()).max_encoding_message_size(usize::MAX);
        let work = WorkClient::new(channel).max_encoding_message_size(usize::MAX);
        Ok(Self { folder, coordinator, client, work })
    }

    async fn register(&mut self) -> Result<String> {
        let request = pb::RegisterRequest { name: "raw".into(), max_tokens: 1 << 20, ..Default::default() };
        Ok(self.work.register(request).await?.into_inner().worker_id)
    }

    fn lease_request(worker: &str, request_id: u64, max_units: u32) -> pb::LeaseRequest {
        let (worker_id, wait_ms) = (worker.to_owned(), 10_000);
        pb::LeaseRequest { worker_id, request_id, max_units, wait_ms, ..Default::default() }
    }

    /// A search is launched properly and still works: nothing that was sent before did harm.
    fn assert_sound(&self) -> Result<()> {
        let search = Search { name: "sound".into(), ..Search::small(self.folder.path())? };
        let _worker = Worker::start(self.folder.path(), &self.coordinator.url, "sound", &models::root())?;
        let job = search.launch(&self.coordinator.url)?;
        wait_done(&self.coordinator.url, &job)?;
        let expected = search.in_one_process(&self.folder.path().join("expected"), 1)?;
        ensure!(factors(&self.coordinator.url, &job)? == expected, "other factors than those of an undisturbed search");
        ensure!(!self.coordinator.log().contains("panicked"), "{}", self.coordinator.log());
        Ok(())
    }
}

/// The reason of a refusal, which must be one of the request and not of the server.
fn refusal<T: std::fmt::Debug>(what: &str, result: Result<T, Status>) -> Result<String> {
    match result {
        Ok(answer) => anyhow::bail!("{what} was accepted: {answer:?}"),
        Err(status) => {
            let refused = [Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition, Code::OutOfRange];
            ensure!(refused.contains(&status.code()), "{what}: {status:?}");
            ensure!(!status.message().is_empty(), "{what} was refused without a reason");
            Ok(status.message().to_owned())
        }
    }
}

fn rescale(factor: f64) -> Option<pb::Rescale> {
    Some(pb::Rescale { factors: vec![factor; 8], start_tokens: 0, attention_factor: 1.0, ..Default::default() })
}

fn sample() -> Result<Sample> {
    Ok(Sample::new((0..128).collect())?)
}

fn spec(change: impl FnOnce(&mut pb::JobSpec)) -> Result<pb::LaunchJobRequest> {
    let config_json = std::fs::read_to_string(models::tiny().join("config.json"))?;
    let mut spec = pb::JobSpec {
        name: "raw".into(),
        model: Some(pb::Model { name: "llama-v4".into(), fingerprint: vec![7; 32], config_json }),
        target_length: 128,
        search: Some(pb::SearchOptions {
            strategy: pb::Strategy::Longrope.into(),
            evolution: Some(pb::Evolution {
                population: 4,
                mutations: 1,
                crossovers: 1,
                generations: 1,
                parents: 2,
                mutation_probability: 0.3,
            }),
            step: 0.01,
            start_tokens: vec![0],
            attention_factor: "none".into(),
            ..Default::default()
        }),
        samples: vec![sample()?.id().as_bytes().to_vec()],
        held_out: vec![],
    };
    change(&mut spec);
    Ok(pb::LaunchJobRequest { spec: Some(spec) })
}

fn search_of(spec: &mut pb::JobSpec) -> &mut pb::SearchOptions {
    spec.search.get_or_insert_default()
}

#[tokio::test]
async fn jobs_that_make_no_sense_are_refused_by_field() -> Result<()> {
    let mut raw = Raw::start().await?;
    let launched = raw.client.launch_job(spec(|_| {})?).await;
    assert!(refusal("a job whose sample was never sent", launched)?.contains("sample"));
    let good = sample()?;
    let parts: Vec<_> = chunks(good.id(), &good).collect();
    raw.client.put_sample(tokio_stream::iter(parts)).await?;

    type Change = fn(&mut pb::JobSpec);
    let wrong: [(&str, Change); 18] = [
        ("name", |spec| spec.name = "../../etc".into()),
        ("name", |spec| spec.name = "n".repeat(100_000)),
        ("model", |spec| spec.model = None),
        ("model", |spec| spec.model.get_or_insert_default().name = "../secret".into()),
        ("fingerprint", |spec| spec.model.get_or_insert_default().fingerprint = vec![1; 31]),
        ("config", |spec| spec.model.get_or_insert_default().config_json = "{".into()),
        ("config", |spec| spec.model.get_or_insert_default().config_json = " ".repeat((1 << 20) + 1)),
        ("target_length", |spec| spec.target_length = 64),
        ("target_length", |spec| spec.target_length = u32::MAX),
        ("strategy", |spec| search_of(spec).strategy = 0),
        ("strategy", |spec| search_of(spec).strategy = 77),
        ("step", |spec| search_of(spec).step = f64::NAN),
        ("max_factor", |spec| search_of(spec).max_factor = Some(f64::INFINITY)),
        ("population", |spec| search_of(spec).evolution.get_or_insert_default().population = u32::MAX),
        ("attention_factor", |spec| search_of(spec).attention_factor = "-1".into()),
        ("factor", |spec| search_of(spec).init = rescale(f64::NAN).into_iter().collect()),
        ("sample", |spec| spec.samples = vec![vec![1; 33]]),
        ("sample", |spec| spec.held_out = spec.samples.clone()),
    ];
    for (field, change) in wrong {
        let reason = refusal(field, raw.client.launch_job(spec(change)?).await)?;
        assert!(reason.contains(field), "{field}: {reason}");
        assert!(reason.len() < 2000, "{field}: {} bytes", reason.len());
    }
    refusal("no specification", raw.client.launch_job(pb::LaunchJobRequest::default()).await)?;
    assert!(raw.client.list_jobs(pb::ListJobsRequest {}).await?.into_inner().jobs.is_empty());
    raw.assert_sound()
}

#[tokio::test]
async fn ids_that_make_no_sense_are_refused() -> Result<()> {
    let mut raw = Raw::start().await?;
    for id in ["", "../..", "no such", "\0", "nobody", &"x".repeat(1_000_000)] {
        let job_id = id.to_owned();
        refusal("get", raw.client.get_job(pb::GetJobRequest { job_id: job_id.clone() }).await)?;
        refusal("cancel", raw.client.cancel_job(pb::CancelJobRequest { job_id: job_id.clone() }).await)?;
        refusal("result", raw.client.get_result(pb::GetResultRequest { job_id: job_id.clone() }).await)?;
        let watch = match raw.client.watch_job(pb::WatchJobRequest { job_id, from_sequence: u64::MAX }).await {
            Ok(stream) => stream.into_inner().message().await,
            Err(status) => Err(status),
        };
        refusal("watch", watch)?;
        refusal("lease", raw.work.lease(Raw::lease_request(id, 1, 1)).await)?;
        let worker_id = id.to_owned();
        refusal(
            "heartbeat",
            raw.work.heartbeat(pb::HeartbeatRequest { worker_id, lease_ids: vec![1], leaving: false }).await,
        )?;
    }
    for sample_id in [vec![], vec![1; 31], vec![9; 32]] {
        let answer = match raw.work.get_sample(pb::GetSampleRequest { sample_id }).await {
            Ok(stream) => stream.into_inner().message().await,
            Err(status) => Err(status),
        };
        refusal("sample", answer)?;
    }
    let worker = raw.register().await?;
    let good = Raw::lease_request(&worker, 1, 1);
    for wrong in [
        pb::LeaseRequest { max_units: 0, ..good.clone() },
        pb::LeaseRequest { max_units: u32::MAX, ..good.clone() },
        pb::LeaseRequest { wait_ms: u64::MAX, ..good.clone() },
        pb::LeaseRequest { missing_models: vec![vec![1; 31]], ..good.clone() },
        pb::LeaseRequest { loaded_models: vec![vec![1; 32]; 50_000], ..good },
    ] {
        refusal("lease", raw.work.lease(wrong).await)?;
    }
    let control = pb::RegisterRequest { name: "\u{1b}[2J".into(), ..Default::default() };
    refusal("a name that clears the terminal", raw.work.register(control).await)?;
    raw.assert_sound()
}

#[tokio::test]
async fn samples_that_are_not_what_they_say_are_refused() -> Result<()> {
    let mut raw = Raw::start().await?;
    let good = sample()?;
    let chunk = chunks(good.id(), &good).next().context("no chunk")?;
    let with = |change: fn(&mut pb::SampleChunk)| {
        let mut chunk = chunk.clone();
        change(&mut chunk);
        vec![chunk]
    };
    for (what, parts) in [
        ("nothing", vec![]),
        ("part of it", with(|chunk| chunk.token_ids.truncate(64))),
        ("other content", with(|chunk| chunk.token_ids[0] ^= 1)),
        ("half a token", with(|chunk| chunk.token_ids.truncate(511))),
        ("a short id", with(|chunk| chunk.sample_id.truncate(8))),
        ("more than announced", with(|chunk| chunk.total_tokens = 64)),
        ("a billion tokens", with(|chunk| chunk.total_tokens = u32::MAX)),
        ("a chunk beyond the bound", with(|chunk| chunk.token_ids = vec![0; MAX_CHUNK_BYTES + 4])),
        ("it and more", vec![chunk.clone(), chunk.clone()]),
    ] {
        refusal(what, raw.client.put_sample(tokio_stream::iter(parts)).await)?;
    }
    let ids = vec![good.id().as_bytes().to_vec()];
    let missing = raw.client.missing_samples(pb::MissingSamplesRequest { sample_ids: ids.clone() }).await?;
    assert_eq!(missing.into_inner().sample_ids, ids, "nothing of it was kept");
    refusal("ids", raw.client.missing_samples(pb::MissingSamplesRequest { sample_ids: vec![vec![1]] }).await)?;
    raw.assert_sound()
}

#[tokio::test]
async fn reports_that_cannot_be_right_change_nothing() -> Result<()> {
    let mut raw = Raw::start().await?;
    let job = Search { name: "raw".into(), ..Search::small(raw.folder.path())? }.launch(&raw.coordinator.url)?;
    let worker = raw.register().await?;
    let request = Raw::lease_request(&worker, 5, 3);
    let leased = raw.work.lease(request.clone()).await?.into_inner().units;
    assert!(!leased.is_empty() && leased.len() <= 3, "{leased:?}");
    assert_eq!(raw.work.lease(request).await?.into_inner().units, leased, "the same request, the same leases");
    let unit = &leased[0];
    let loss = |nll_sum, tokens| Outcome::Loss(pb::Loss { nll_sum, tokens, seconds: 0.5 });
    let good = pb::UnitReport {
        lease_id: unit.lease_id,
        job_id: unit.job_id.clone(),
        sample_id: unit.sample_id.clone(),
        rescale: unit.rescale.clone(),
        outcome: Some(loss(1000.0, u64::from(unit.tokens) - 1)),
    };
    let report = |report: pb::UnitReport| pb::ReportRequest { worker_id: worker.clone(), reports: vec![report] };

    // What cannot be read at all, and what can be read but not be right.
    let failure = |kind| Outcome::Failure(pb::Failure { kind, reason: "\u{1b}[2J".into() });
    for wrong in [
        pb::UnitReport { outcome: None, ..good.clone() },
        pb::UnitReport { outcome: Some(failure(0)), ..good.clone() },
        pb::UnitReport { outcome: Some(failure(99)), ..good.clone() },
        pb::UnitReport { rescale: None, ..good.clone() },
        pb::UnitReport { rescale: rescale(f64::NAN), ..good.clone() },
        pb::UnitReport { rescale: rescale(-1.0), ..good.clone() },
        pb::UnitReport { sample_id: vec![1; 5], ..good.clone() },
        pb::UnitReport { outcome: Some(loss(1.0, 7)), ..good.clone() },
        pb::UnitReport { outcome: Some(loss(1.0, u64::MAX)), ..good.clone() },
    ] {
        match raw.work.report(report(wrong.clone())).await {
            Ok(response) => assert_eq!(response.into_inner().verdicts, [Verdict::Refused as i32], "{wrong:?}"),
            Err(status) => _ = refusal("report", Err::<(), _>(status))?,
        }
    }
    let verdict = async |work: &mut WorkClient<Channel>, wrong| -> Result<Verdict> {
        let verdicts = work.report(report(wrong)).await?.into_inner().verdicts;
        ensure!(verdicts.len() == 1, "{verdicts:?}");
        Ok(Verdict::try_from(verdicts[0])?)
    };
    let stranger = pb::UnitReport { job_id: "stranger-0123456789".into(), ..good.clone() };
    assert_eq!(verdict(&mut raw.work, stranger).await?, Verdict::NotWanted);
    let unasked = pb::UnitReport { rescale: rescale(1.23), lease_id: 0, ..good.clone() };
    assert!(matches!(verdict(&mut raw.work, unasked).await?, Verdict::NotWanted | Verdict::Refused));
    assert_eq!(verdict(&mut raw.work, good.clone()).await?, Verdict::Accepted);
    assert_eq!(verdict(&mut raw.work, good.clone()).await?, Verdict::Duplicate);
    let other = pb::UnitReport { outcome: Some(loss(2000.0, u64::from(unit.tokens) - 1)), ..good };
    assert_eq!(verdict(&mut raw.work, other).await?, Verdict::Conflict);
    let status = ropewalk_tests::search::status(&raw.coordinator.url, &job)?;
    assert_eq!(status["passes"], 1, "{status:#}");
    ropewalk_tests::command::ropewalk(["cancel", &job, "--coordinator", &raw.coordinator.url])?.done()?;
    raw.assert_sound()
}

#[tokio::test]
async fn messages_beyond_every_bound_are_turned_away() -> Result<()> {
    let mut raw = Raw::start().await?;
    let large = spec(|spec| spec.name = "n".repeat(200 << 20))?;
    assert!(raw.client.launch_job(large).await.is_err());
    let worker_id = raw.register().await?;
    let reports = vec![pb::UnitReport::default(); 100_000];
    assert!(raw.work.report(pb::ReportRequest { worker_id: worker_id.clone(), reports }).await.is_err());
    let lease_ids = (0..20_000_000).collect();
    assert!(raw.work.heartbeat(pb::HeartbeatRequest { worker_id, lease_ids, leaving: false }).await.is_err());
    raw.assert_sound()
}

#[tokio::test]
async fn what_is_not_grpc_at_all_does_no_harm() -> Result<()> {
    let raw = Raw::start().await?;
    let address = raw.coordinator.url.trim_start_matches("http://");
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame"]
    {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(bytes)?;
        // Whatever comes back, or nothing.
        let _ = stream.read(&mut [0; 1024]);
    }
    // Connections that are opened and never used.
    let idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(address)).collect::<std::io::Result<_>>()?;
    raw.assert_sound()?;
    drop(idle);
    Ok(())
}
