//! Coordinators that ask for a token and encrypt: who gets in, what others are told, and that searches are the same.

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use ropewalk_shared::wire::pb::ropewalk_client::RopewalkClient;
use ropewalk_shared::wire::pb::work_client::WorkClient;
use ropewalk_shared::wire::pb::{ListJobsRequest, RegisterRequest};
use ropewalk_tests::command::{Ended, ropewalk, worker};
#[cfg(target_os = "linux")]
use ropewalk_tests::extend::{SmallPlan, made};
use ropewalk_tests::models;
use ropewalk_tests::process::{Coordinator, Worker};
use ropewalk_tests::search::Search;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const TOKEN: &str = "correct-horse-battery-staple";
const OTHER: &str = "wrong-horse-battery-stapler";

/// A file in a folder.
fn file(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> Result<String> {
    let path = folder.join(name);
    std::fs::write(&path, content)?;
    Ok(path.to_string_lossy().into_owned())
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// A certificate for `localhost` of an authority made for it: files of the authority's, the certificate, and its key.
fn certificate(folder: &Path, name: &str) -> Result<[String; 3]> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, format!("authority of {name}"));
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let ca = authority.self_signed(&authority_key)?;
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(vec!["localhost".to_owned()])?;
    let certificate = params.signed_by(&key, &Issuer::new(authority, authority_key))?;
    Ok([
        file(folder, &format!("{name}-ca.pem"), ca.pem())?,
        file(folder, &format!("{name}.pem"), certificate.pem())?,
        file(folder, &format!("{name}.key"), key.serialize_pem())?,
    ])
}

/// The URL of a coordinator under the name that its certificate has.
fn named(coordinator: &Coordinator) -> String {
    coordinator.url.replace("127.0.0.1", "localhost")
}

/// A search through this coordinator with these options of clients and workers, to its factors.
fn searched(folder: &Path, url: &str, access: &[&str]) -> Result<(String, String)> {
    let search = Search::small(folder)?;
    let with = |arguments: &[&str]| [arguments, &["--coordinator", url], access].concat().join("\u{0}");
    let run = |arguments: String| ropewalk(arguments.split('\u{0}'))?.done();
    let launch = search.arguments();
    let launch: Vec<&str> = std::iter::once("launch").chain(launch.iter().map(String::as_str)).collect();
    let job = run(with(&launch))?.stdout.trim().to_owned();
    let mut worker = Worker::start_with(folder, url, "one", &models::root(), access)?;
    run(with(&["watch", &job]))?;
    let factors = run(with(&["export", &job]))?.stdout;
    let workers = run(with(&["workers", "--json"]))?.stdout;
    ensure!(workers.contains("\"one\""), "{workers}");
    assert_eq!(worker.interrupt()?, Some(0), "{}", worker.log());
    ensure!(!worker.log().contains(TOKEN), "the token is in the log");
    Ok((search.in_one_process(&folder.join("expected"), 1)?, factors))
}

#[test]
fn only_who_brings_the_token_is_let_in_and_the_factors_are_the_same() -> Result<()> {
    let folder = TempDir::new()?;
    let token = file(folder.path(), "token", format!(" {TOKEN}\n"))?;
    let other = file(folder.path(), "other", OTHER)?;
    let coordinator = Coordinator::start_with(folder.path(), &strings(&["--token-file", &token]))?;
    let url = coordinator.url.as_str();
    let search = Search::small(folder.path())?.arguments();
    let launch: Vec<&str> = std::iter::once("launch").chain(search.iter().map(String::as_str)).collect();
    let root = models::root().to_string_lossy().into_owned();
    for (access, said) in [(&[][..], "asks for a token"), (&["--token-file", &other], "is not this coordinator's")] {
        let said = [said, "--token-file", "ROPEWALK_TOKEN_FILE", url];
        for command in [
            &["jobs"][..],
            &["workers"],
            &["status", "x"],
            &["watch", "x"],
            &["pause", "x"],
            &["resume", "x"],
            &["cancel", "x"],
            &["export", "x"],
            &launch,
        ] {
            let ended = ropewalk([command, &["--coordinator", url], access].concat())?;
            ended.assert_failed(2, &said);
            assert!(!ended.to_string().contains(OTHER), "{ended}");
        }
        let ended = worker([&["--coordinator", url, "--model-root", &root, "--log", "error"], access].concat())?;
        ended.assert_failed(2, &said);
    }
    let (expected, factors) = searched(folder.path(), url, &["--token-file", &token])?;
    assert_eq!(factors.trim_end(), expected.trim_end());
    assert!(!coordinator.log().contains(TOKEN), "{}", coordinator.log());
    Ok(())
}

#[test]
fn a_worker_ends_when_the_token_has_changed() -> Result<()> {
    let folder = TempDir::new()?;
    let token = file(folder.path(), "token", TOKEN)?;
    let mut coordinator = Coordinator::start_with(folder.path(), &strings(&["--token-file", &token]))?;
    let kept = file(folder.path(), "kept", TOKEN)?;
    let mut worker =
        Worker::start_with(folder.path(), &coordinator.url, "one", &models::root(), &["--token-file", &kept])?;
    let start = std::time::Instant::now();
    while !worker.log().contains("registered") {
        ensure!(start.elapsed().as_secs() < 60, "{}", worker.log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    coordinator.kill()?;
    std::fs::write(&token, OTHER)?;
    coordinator.restart()?;
    assert_eq!(worker.ended()?, Some(2), "{}", worker.log());
    assert!(worker.log().contains("is not this coordinator's"), "{}", worker.log());
    Ok(())
}

#[tokio::test]
async fn hostile_headers_are_refused_and_health_is_open() -> Result<()> {
    let folder = TempDir::new()?;
    let token = file(folder.path(), "token", TOKEN)?;
    let coordinator = Coordinator::start_with(folder.path(), &strings(&["--token-file", &token]))?;
    let channel = Endpoint::from_shared(coordinator.url.clone())?.connect().await?;
    let call = async |channel: &Channel, values: Vec<Vec<u8>>| {
        let mut request = Request::new(ListJobsRequest {});
        for value in values {
            // Any bytes that HTTP lets through.
            let value = tonic::codegen::http::HeaderValue::from_bytes(&value).expect("a header value");
            let mut headers = request.metadata().clone().into_headers();
            headers.append("authorization", value);
            *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        }
        RopewalkClient::new(channel.clone()).list_jobs(request).await.map_err(|status| status.code())
    };
    let good = format!("Bearer {TOKEN}").into_bytes();
    for values in [
        vec![],
        vec![vec![]],
        vec![b"Bearer ".to_vec()],
        vec![b"Basic abc".to_vec()],
        vec![b"Bearer \xff\xfe\x80".to_vec()],
        vec![good.clone(), good.clone()],
        vec![[good.clone(), b"x".to_vec()].concat()],
        vec![b"B".repeat(8 << 10)],
    ] {
        assert_eq!(call(&channel, values).await.unwrap_err(), Code::Unauthenticated);
    }
    // Beyond what any header may have; whatever the connection makes of it, it is not let in.
    assert!(call(&channel, vec![[good.clone(), vec![b'x'; 1 << 20]].concat()]).await.is_err());
    let channel = Endpoint::from_shared(coordinator.url.clone())?.connect().await?;
    let refused = WorkClient::new(channel.clone()).register(RegisterRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    // Refused before it is known whether there is such a service, and before anything is decoded.
    let mut raw = tonic::client::Grpc::new(channel.clone());
    raw.ready().await?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/grpc.reflection.v1.ServerReflection/Any");
    let codec = tonic_prost::ProstCodec::<RegisterRequest, RegisterRequest>::default();
    let reflected = raw.unary(Request::new(RegisterRequest::default()), path, codec).await;
    assert_eq!(reflected.map(|_| ()).unwrap_err().code(), Code::Unauthenticated);
    let mut request = Request::new(ListJobsRequest {});
    request.metadata_mut().insert("authorization", MetadataValue::try_from(good)?);
    RopewalkClient::new(channel.clone()).list_jobs(request).await?;
    let mut health = HealthClient::new(channel);
    let answer = health.check(HealthCheckRequest::default()).await?.into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    Ok(())
}

#[test]
fn files_that_hold_no_token_or_certificate_are_wrong_input() -> Result<()> {
    let folder = TempDir::new()?;
    let path = folder.path();
    let store = path.join("store").to_string_lossy().into_owned();
    let serve = |more: &[&str]| -> Result<Ended> {
        ropewalk([&["serve", "--listen", "127.0.0.1:0", "--store", &store], more].concat())
    };
    let missing = path.join("missing").to_string_lossy().into_owned();
    let cases = [
        (missing.clone(), "No such file"),
        (file(path, "empty", " \n")?, "empty"),
        (file(path, "short", "123")?, "3 bytes"),
        (file(path, "long", "x".repeat(5000))?, "4096"),
        (file(path, "huge", "x".repeat(1 << 20))?, "4096"),
        (file(path, "lines", format!("{TOKEN}\n{OTHER}\n"))?, "one line"),
        (file(path, "binary", b"\xff\xfe\x00\x01".repeat(8))?, "printable"),
    ];
    let root = models::root().to_string_lossy().into_owned();
    for (token, said) in &cases {
        serve(&["--token-file", token])?.assert_failed(2, &[token, said]);
        ropewalk(["jobs", "--token-file", token])?.assert_failed(2, &[token, said]);
        worker(["--model-root", &root, "--token-file", token])?.assert_failed(2, &[token, said]);
    }
    let [ca, good, key] = certificate(path, "good")?;
    let [_, _, other_key] = certificate(path, "other")?;
    let text = file(path, "text", "no PEM at all")?;
    let torn = file(path, "torn", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")?;
    for (cert, key, said) in [
        (&missing, &key, [&missing[..], "--tls-cert"]),
        (&good, &missing, [&missing[..], "--tls-key"]),
        (&text, &key, [&text[..], "no certificate"]),
        (&torn, &key, [&torn[..], "--tls-cert"]),
        (&good, &text, [&text[..], "no private key"]),
        (&good, &ca, [&ca[..], "no private key"]),
        (&good, &other_key, [&other_key[..], "does not go with"]),
    ] {
        serve(&["--tls-cert", cert, "--tls-key", key])?.assert_failed(2, &said);
    }
    serve(&["--tls-cert", &good])?.assert_failed(2, &["--tls-key"]);
    let tls = ["--tls-cert", &good, "--tls-key", &key, "--plan-root", path.to_str().context("path")?];
    serve(&tls)?.assert_failed(2, &["--url"]);
    serve(&[&tls[..], &["--ca", &ca, "--url", "https://elsewhere"]].concat())?.assert_failed(2, &["elsewhere"]);
    serve(&[&tls[..], &["--url", "http://localhost"]].concat())?.assert_failed(2, &["https://"]);
    ropewalk(["jobs", "--coordinator", "https://localhost:1", "--ca", &text])?.assert_failed(2, &[&text, "--ca"]);
    worker(["--coordinator", "https://localhost:1", "--model-root", &root, "--ca", &text])?
        .assert_failed(2, &[&text, "--ca"]);
    Ok(())
}

#[test]
fn encrypted_with_a_token_the_factors_are_the_same_and_strangers_are_told_why() -> Result<()> {
    let folder = TempDir::new()?;
    let path = folder.path();
    let token = file(path, "token", TOKEN)?;
    let [ca, cert, key] = certificate(path, "good")?;
    let [other_ca, ..] = certificate(path, "other")?;
    let security = ["--token-file", &token, "--tls-cert", &cert, "--tls-key", &key];
    let coordinator = Coordinator::start_with(path, &strings(&security))?;
    assert!(coordinator.url.starts_with("https://"), "{}", coordinator.url);
    let url = named(&coordinator);
    let root = models::root().to_string_lossy().into_owned();
    let plain = url.replace("https://", "http://");
    let without = Coordinator::start(&TempDir::new()?.keep())?;
    let not_there = named(&without).replace("http://", "https://");
    for (url, ca, said) in [
        (&url, &other_ca, "nobody who is trusted"),
        (&coordinator.url, &ca, "another name"),
        (&not_there, &ca, "does not speak TLS"),
    ] {
        let access = ["--coordinator", url, "--ca", ca, "--token-file", &token];
        ropewalk([&["jobs"], &access[..]].concat())?.assert_failed(2, &[said, url]);
        worker([&access[..], &["--model-root", &root, "--log", "error"]].concat())?.assert_failed(2, &[said, url]);
    }
    ropewalk(["jobs", "--coordinator", &plain])?.assert_failed(1, &["https://"]);
    ropewalk(["jobs", "--coordinator", &url, "--ca", &ca])?.assert_failed(2, &["asks for a token"]);
    let (expected, factors) = searched(path, &url, &["--token-file", &token, "--ca", &ca])?;
    assert_eq!(factors.trim_end(), expected.trim_end());
    Ok(())
}

/// The first line of a coordinator that listens on all addresses of this machine, and what it says besides. It is asked for
/// its jobs at the address that is put in place of that.
fn open_to_the_network(folder: &Path, more: &[&str]) -> Result<(String, String)> {
    let log = folder.join("serve.log");
    let mut child = std::process::Command::new(ropewalk_tests::binaries::ropewalk()?)
        .args(["serve", "--listen", "0.0.0.0:0", "--store"])
        .arg(folder.join("store"))
        .args(more)
        .env_remove("ROPEWALK_TOKEN_FILE")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::fs::File::create(&log)?)
        .spawn()?;
    let mut asked = || -> Result<String> {
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
        let url = line.trim_end().replace("listening on http://0.0.0.0:", "http://127.0.0.1:");
        ropewalk([&["jobs", "--coordinator", &url], more].concat())?.done()?;
        Ok(line)
    };
    let line = asked();
    child.kill()?;
    child.wait()?;
    Ok((line?, std::fs::read_to_string(log)?))
}

#[test]
fn whoever_is_open_to_the_network_says_so() -> Result<()> {
    let folder = TempDir::new()?;
    let everybody = "everybody who reaches this address may use the coordinator";
    let (line, said) = open_to_the_network(folder.path(), &[])?;
    assert!(line.starts_with("listening on http://0.0.0.0:"), "{line}");
    assert_eq!(said.matches(everybody).count(), 1, "{said}");
    assert!(said.contains("--token-file") && said.contains("docs/security.md"), "{said}");
    let token = file(folder.path(), "token", TOKEN)?;
    let (_, said) = open_to_the_network(folder.path(), &["--token-file", &token])?;
    assert!(!said.contains(everybody) && said.contains("unencrypted"), "{said}");
    let private = Coordinator::start(folder.path())?;
    assert!(!private.log().contains("warning"), "{}", private.log());
    Ok(())
}

/// Through the environment alone, as services and batch jobs set it.
#[test]
fn tokens_and_authorities_come_from_the_environment_too() -> Result<()> {
    let folder = TempDir::new()?;
    let token: PathBuf = file(folder.path(), "token", TOKEN)?.into();
    let [ca, cert, key] = certificate(folder.path(), "good")?;
    let more = strings(&["--token-file", &token.to_string_lossy(), "--tls-cert", &cert, "--tls-key", &key]);
    let coordinator = Coordinator::start_with(folder.path(), &more)?;
    let ended = std::process::Command::new(ropewalk_tests::binaries::ropewalk()?)
        .arg("jobs")
        .env("ROPEWALK_COORDINATOR", named(&coordinator))
        .env("ROPEWALK_TOKEN_FILE", &token)
        .env("ROPEWALK_CA", &ca)
        .output()?;
    assert!(ended.status.success(), "{ended:?}");
    Ok(())
}

/// The process that carries it out reaches its own coordinator under a name of the certificate, with its token.
#[test]
#[cfg(target_os = "linux")]
fn a_detached_plan_is_carried_out_behind_token_and_tls() -> Result<()> {
    let folder = TempDir::new()?;
    let path = folder.path().canonicalize()?;
    let training =
        "[stage.training]\nsteps = 4\nlength = 128\nsequences_per_step = 2\nlearning_rate = 1e-3\nwarmup_steps = 2";
    let plan = SmallPlan::new(&path, training)?;
    let (calm, out) = (path.join("calm"), path.join("out"));
    plan.run(&calm, &[])?.done()?;
    std::fs::create_dir_all(out.join("models"))?;
    let token = file(&path, "token", TOKEN)?;
    // Vouches for itself: the process is to trust it without having been told.
    let key = KeyPair::generate()?;
    let own = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let (cert, key) = (file(&path, "own.pem", own.pem())?, file(&path, "own.key", key.serialize_pem())?);
    let root = path.to_string_lossy();
    let coordinator = Coordinator::start_with(
        &path,
        // Named as seen from its folder: the process runs elsewhere.
        &strings(&[
            "--token-file",
            "token",
            "--tls-cert",
            "own.pem",
            "--tls-key",
            &key,
            "--plan-root",
            &root,
            "--url",
            "https://localhost",
        ]),
    )?;
    let url = named(&coordinator);
    let access = ["--token-file", &token, "--ca", &cert];
    let train = [&access[..], &["--train-root", &root]].concat();
    let _worker = Worker::start_with(&path, &url, "only", &out.join("models"), &train)?;
    let launched = plan.run(&out, &[&["--coordinator", &url, "--detach"], &access[..]].concat())?.done()?;
    let job = launched.stdout.trim();
    ropewalk([&["watch", job, "--coordinator", &url], &access[..]].concat())?.done()?;
    assert!(made(&calm)? == made(&out)?);
    assert!(!coordinator.log().contains(TOKEN), "{}", coordinator.log());
    Ok(())
}
