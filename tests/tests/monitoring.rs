//! What `serve --http` shows, and what monitoring is set up with in deploy/metrics.

use anyhow::{Context as _, Result, bail, ensure};
use ropewalk_tests::command::ropewalk;
use ropewalk_tests::models;
use ropewalk_tests::process::{Coordinator, Worker};
use ropewalk_tests::search::{Search, wait_done, wait_until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// An answer that takes longer never comes.
const LIMIT: Duration = Duration::from_secs(60);

struct Answer {
    status: u16,
    /// Status line and headers, in small letters.
    head: String,
    body: String,
}

/// Sends a request as it stands, and reads until the connection is closed.
fn send(url: &str, request: &str) -> Result<Answer> {
    let mut stream = connect(url)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}

fn connect(url: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(url.strip_prefix("http://").context("no http")?)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

fn ask(url: &str, method: &str, path: &str) -> Result<Answer> {
    send(url, &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

/// The body of what is there.
fn get(url: &str, path: &str) -> Result<String> {
    let Answer { status, head, body } = ask(url, "GET", path)?;
    ensure!(status == 200, "{path}: {head}\n{body}");
    Ok(body)
}

fn with_dashboard(folder: &Path) -> Result<(Coordinator, String)> {
    let coordinator = Coordinator::start_with(folder, &["--http".to_owned(), "127.0.0.1:0".to_owned()])?;
    let url = coordinator.dashboard()?;
    Ok((coordinator, url))
}

/// Metrics in the text format of Prometheus.
#[derive(Debug, Default)]
struct Metrics {
    names: BTreeSet<String>,
    /// Values by name and labels, as they stand there.
    values: BTreeMap<String, f64>,
}

impl Metrics {
    fn scrape(url: &str) -> Result<Self> {
        let answer = ask(url, "GET", "/metrics")?;
        ensure!(answer.status == 200, "{}\n{}", answer.head, answer.body);
        ensure!(answer.head.contains("\r\ncontent-type: text/plain; version=0.0.4"), "{}", answer.head);
        Self::read(&answer.body).with_context(|| answer.body.clone())
    }

    /// Reads what is well-formed: a help, a type and the samples of each name together, everything once.
    fn read(text: &str) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the last line is not whole");
        let (mut metrics, mut helped, mut current) = (Self::default(), "", ("", ""));
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').with_context(|| format!("no help: {line}"))?;
                ensure!(is_name(name) && !help.is_empty(), "{line}");
                helped = name;
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').with_context(|| format!("no type: {line}"))?;
                ensure!(helped == name && metrics.names.insert(name.to_owned()), "no help, or a second type: {line}");
                ensure!(kind == "gauge" || kind == "counter" && name.ends_with("_total"), "{line}");
                current = (name, kind);
            } else {
                let (series, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
                let (name, labels) = series.split_once('{').map_or((series, None), |(name, rest)| (name, Some(rest)));
                ensure!(name == current.0, "it stands apart from its type: {line}");
                ensure!(labels.is_none_or(are_labels), "{line}");
                let value: f64 = value.parse().with_context(|| line.to_owned())?;
                ensure!(current.1 == "gauge" || value >= 0.0, "{line}");
                ensure!(metrics.values.insert(series.to_owned(), value).is_none(), "twice: {line}");
            }
        }
        Ok(metrics)
    }

    fn value(&self, series: &str) -> Result<f64> {
        self.values.get(series).copied().with_context(|| format!("{series} is missing: {self:#?}"))
    }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(plain)
}

/// Whether this is `name="value",…}`, escaped as it has to be.
fn are_labels(mut rest: &str) -> bool {
    loop {
        let Some((name, value)) = rest.split_once("=\"") else { return false };
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end.filter(|_| is_name(name)) else { return false };
        match &value[end + 1..] {
            "}" => return true,
            more => match more.strip_prefix(',') {
                Some(more) => rest = more,
                None => return false,
            },
        }
    }
}

#[test]
fn metrics_that_are_not_well_formed_are_found() {
    let head = "# HELP a_total A\n# TYPE a_total counter\n";
    for good in ["a_total 1\n", "a_total{b=\"c\"} 1\na_total{b=\"\\\"},\\\\\",d=\"\"} 2.5\n"] {
        Metrics::read(&format!("{head}{good}")).unwrap();
    }
    for bad in
        ["a_total 1", "b 1\n", "a_total x\n", "a_total 1\na_total 2\n", "a_total{b=\"c} 1\n", "a_total{b=\"\"\"} 1\n"]
    {
        assert!(Metrics::read(&format!("{head}{bad}")).is_err(), "{bad:?}");
    }
    assert!(Metrics::read("# TYPE a_total counter\na_total 1\n").is_err());
    assert!(Metrics::read("a_total 1\n").is_err());
}

#[test]
fn a_search_can_be_followed_over_http() -> Result<()> {
    let folder = TempDir::new()?;
    let (coordinator, dashboard) = with_dashboard(folder.path())?;
    let _worker = Worker::start(folder.path(), &coordinator.url, "only", &models::root())?;
    let job = Search::small(folder.path())?.launch(&coordinator.url)?;
    wait_until(&coordinator.url, &job, |status| status["passes"].as_u64() > Some(0))?;
    // So that it is not over before it is looked at.
    ropewalk(["pause", &job, "--coordinator", &coordinator.url])?.done()?;
    let paused = "ropewalk_jobs{kind=\"search\",state=\"paused\"}";
    let metrics = until(&dashboard, |metrics| metrics.value(paused).is_ok_and(|count| count == 1.0))?;
    assert!(metrics.value(&format!("ropewalk_job_document_passes{{job_id=\"{job}\"}}"))? > 0.0);
    assert_eq!(metrics.value("ropewalk_workers_connected")?, 1.0);
    ropewalk(["resume", &job, "--coordinator", &coordinator.url])?.done()?;
    let status = wait_done(&coordinator.url, &job)?;

    let done = "ropewalk_jobs{kind=\"search\",state=\"done\"}";
    let metrics = until(&dashboard, |metrics| metrics.value(done).is_ok_and(|count| count == 1.0))?;
    let passes = status["passes"].as_u64().context("no passes")?;
    assert!(passes > 0, "{status:#}");
    assert_eq!(metrics.value("ropewalk_results_total{verdict=\"accepted\"}")?, passes as f64, "{status:#}");
    assert_eq!(metrics.value("ropewalk_results_total{verdict=\"conflict\"}")?, 0.0);
    assert!(metrics.value("ropewalk_evaluated_tokens_total")? > passes as f64);
    assert!(!metrics.values.keys().any(|series| series.contains(&job)), "it is over: {metrics:#?}");

    let printed = ropewalk(["status", &job, "--coordinator", &coordinator.url, "--json"])?.done()?.stdout;
    assert_eq!(get(&dashboard, &format!("/api/jobs/{job}"))?, printed);
    let best = status["best_perplexity"].as_f64().context("no best")?;
    let page = get(&dashboard, &format!("/jobs/{job}"))?;
    assert!(page.contains(&format!("{best:.4}")), "{best}: {page}");
    assert!(get(&dashboard, "/")?.contains(&format!("/jobs/{job}")));
    assert!(get(&dashboard, "/api/jobs")?.contains(&job));
    Ok(())
}

/// Scrapes until it is so.
fn until(dashboard: &str, wanted: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
    let start = Instant::now();
    loop {
        let metrics = Metrics::scrape(dashboard)?;
        if wanted(&metrics) {
            return Ok(metrics);
        }
        ensure!(start.elapsed() < LIMIT, "it never is: {metrics:#?}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn clients_of_all_kinds_are_answered_or_refused() -> Result<()> {
    let folder = TempDir::new()?;
    let (_coordinator, url) = with_dashboard(folder.path())?;
    let mut halves = Vec::new();
    for _ in 0..20 {
        let mut half = connect(&url)?;
        half.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc")?;
        halves.push(half);
    }
    assert_eq!(get(&url, "/healthz")?, "ok\n");
    assert_eq!(get(&url, "/readyz")?, "ready\n");
    for (method, path, status) in [
        ("GET", "/", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/style.css", 200),
        ("GET", "/nothing", 404),
        ("GET", "/jobs/nothing-0123456789", 404),
        ("GET", "/api/jobs/nothing-0123456789", 404),
        ("GET", "/../etc/passwd", 404),
        ("POST", "/", 405),
        ("POST", "/nothing", 405),
        ("DELETE", "/api/jobs", 405),
        ("GET", &format!("/{}", "x".repeat(2000)), 414),
    ] {
        let answer = ask(&url, method, path)?;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.head);
        for header in ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff"] {
            assert!(answer.head.contains(&format!("\r\n{header}")), "{method} {path}: {}", answer.head);
        }
        assert!(method != "HEAD" || answer.body.is_empty(), "{}", answer.body);
    }
    // It may be cut off before all of it is sent, and then has no answer to read.
    if let Ok(answer) = ask(&url, "GET", &format!("/{}", "x".repeat(100_000))) {
        assert!([400, 414, 431].contains(&answer.status), "{}", answer.head);
    }
    assert_eq!(get(&url, "/healthz")?, "ok\n");
    // Those that never ask are let go: reading ends, with or without a word.
    for mut half in halves {
        match half.read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => bail!("it is still open: {error}"),
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn monitoring_is_set_up_with_metrics_that_exist() -> Result<()> {
    let folder = TempDir::new()?;
    let (_coordinator, url) = with_dashboard(folder.path())?;
    let metrics = Metrics::scrape(&url)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
    for file in std::fs::read_dir(root.join("deploy/metrics"))? {
        let path = file?.path();
        let text = std::fs::read_to_string(&path)?;
        for name in names(&text) {
            assert!(metrics.names.contains(name), "{}: {name}", path.display());
        }
    }
    let scrape: Value = serde_saphyr::from_str(&read("deploy/metrics/prometheus.yaml")?)?;
    assert!(scrape["scrape_configs"][0]["static_configs"][0]["targets"][0].is_string(), "{scrape:#}");
    let alerts: Value = serde_saphyr::from_str(&read("deploy/metrics/alerts.yaml")?)?;
    let grafana: Value = serde_json::from_str(&read("deploy/metrics/grafana.json")?)?;
    for (set, least) in [(&alerts, 4), (&grafana, 8)] {
        let mut queries = Vec::new();
        expressions(set, &mut queries);
        assert!(queries.len() >= least, "{queries:?}");
        for query in queries {
            assert_labels(query, &metrics);
        }
    }
    // What is told to readers is all that there is.
    let documented = read("docs/monitoring.md")?;
    for name in &metrics.names {
        assert!(documented.contains(&format!("| `{name}` |")), "{name} is missing in docs/monitoring.md");
    }
    Ok(())
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("ropewalk_").map(|(at, _)| {
        let name = &text[at..];
        &name[..name.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(name.len())]
    })
}

/// All queries in rules or a dashboard.
fn expressions<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        Value::Object(values) => values.iter().for_each(|(name, value)| match value {
            Value::String(query) if name == "expr" => found.push(query),
            value => expressions(value, found),
        }),
        _ => {}
    }
}

/// Asserts that what a query selects is there: one that selects nothing never alerts.
fn assert_labels(query: &str, metrics: &Metrics) {
    for (before, after) in query.match_indices('{').map(|(at, _)| (&query[..at], &query[at + 1..])) {
        let Some(name) = before.rfind("ropewalk_").map(|at| &before[at..]).filter(|name| is_name(name)) else {
            continue;
        };
        let labels = after.split('}').next().unwrap_or_default();
        for (label, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
            for value in value.trim_start_matches('~').trim_matches('"').split('|') {
                let label = format!("{label}=\"{value}\"");
                let known = |series: &String| series.starts_with(&format!("{name}{{")) && series.contains(&label);
                assert!(metrics.values.keys().any(known), "{label} in {query}");
            }
        }
    }
}
