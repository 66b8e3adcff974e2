//! Options that several commands share: what was typed, checked later where it is used.

pub use crate::units::{seconds, tokens};

use super::access::AccessArgs;
use super::failure::Failure;
use super::numbers::count;
use crate::client::Client;
use clap::{Args, ValueEnum};
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::grid::Grid;
use ropewalk_shared::job::{EvolutionOptions, MAX_SAMPLES, SearchObjective, SearchOptions, ShortWindow, StrategyKind};
use ropewalk_shared::racing::Racing;
use ropewalk_shared::space::PAPER_START_TOKENS;
use std::path::PathBuf;

/// Where coordinators listen and clients look for them unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7311";
/// [`DEFAULT_LISTEN`] as a URL.
pub const DEFAULT_COORDINATOR: &str = "http://127.0.0.1:7311";

/// The coordinator that a command talks to.
#[derive(Args, Clone, Debug)]
pub struct CoordinatorArgs {
    /// URL of the coordinator
    #[arg(long, env = "ROPEWALK_COORDINATOR", default_value = DEFAULT_COORDINATOR, value_name = "URL")]
    pub coordinator: String,
    #[command(flatten)]
    pub access: AccessArgs,
}

impl CoordinatorArgs {
    /// Connects to it.
    pub async fn connect(&self) -> Result<Client, Failure> {
        connect(&self.coordinator, &self.access).await
    }

    /// What the next command takes to reach the same coordinator.
    pub fn again(&self) -> String {
        again(&self.coordinator, &self.access)
    }
}

/// What the next command takes to reach the coordinator at this address: the address, where that command would go to another
/// without, and what it has to bring along.
pub fn again(url: &str, access: &AccessArgs) -> String {
    let usual = std::env::var("ROPEWALK_COORDINATOR").unwrap_or_else(|_| DEFAULT_COORDINATOR.to_owned());
    let address = if url == usual { String::new() } else { format!(" --coordinator {url}") };
    address + &access.again()
}

/// Connects to a coordinator whose address was typed.
pub async fn connect(url: &str, access: &AccessArgs) -> Result<Client, Failure> {
    Ok(Client::connect_with(url, &access.to(url)?).await?)
}

/// The form of what a command prints.
#[derive(Args, Clone, Copy, Debug)]
pub struct JsonArgs {
    /// Print JSON for programs, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Where long documents come from.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct SourceArgs {
    /// Text to read: .txt, .md, .jsonl with "text", .parquet with a text column, or folders of these
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub data: Vec<PathBuf>,

    /// Token ids to read: JSON Lines with "input_ids", used as they are (no tokenizer needed)
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub tokens: Vec<PathBuf>,
}

/// How many documents are searched on and held out.
#[derive(Args, Clone, Copy, Debug)]
pub struct SamplingArgs {
    /// Documents the search sees
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = samples)]
    pub samples: usize,

    /// Documents it never sees, for the final comparison
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = held_out)]
    pub held_out: usize,
}

/// So many, and at least one.
fn samples(text: &str) -> Result<usize, String> {
    count(text, MAX_SAMPLES)
}

/// The same; nothing need be held out.
fn held_out(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { count(text, MAX_SAMPLES) }
}

/// Search algorithms on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StrategyArg {
    /// The paper's algorithm 1: mutations and crossovers of the best candidates
    #[value(name = "longrope")]
    LongRope,
    /// First the curve that all pairs share, then the pairs: ends as low for a tenth of the evaluations
    #[value(name = "ropewalk")]
    Ropewalk,
    /// The authors' code: from YaRN's factors, one at a time between its neighbours; no search of starting tokens
    #[value(name = "dim-mono")]
    DimMono,
    /// The authors' code: the same between leading ones and a last piece of the extension ratio
    #[value(name = "dim-piece-mono")]
    DimPieceMono,
    /// LongRoPE2: critical dimensions, factors from s to 2s from there on, NTK below
    #[value(name = "longrope2")]
    LongRope2,
}

/// How to search.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Search options")]
pub struct SearchArgs {
    /// Search algorithm
    #[arg(long, value_enum, default_value_t = StrategyArg::Ropewalk)]
    pub strategy: StrategyArg,

    /// Size of the first population [default: 64; all strategies but ropewalk]
    #[arg(long, value_name = "N")]
    pub population: Option<u32>,

    /// Mutations in each later generation [default: 12 with ropewalk, else 16]
    #[arg(long, value_name = "N")]
    pub mutations: Option<u32>,

    /// Crossovers in each later generation [default: 4 with ropewalk, else 16]
    #[arg(long, value_name = "N")]
    pub crossovers: Option<u32>,

    /// Generations after the first population [default: 5 with ropewalk, after the curve; else 40]
    #[arg(long, value_name = "N")]
    pub generations: Option<u32>,

    /// The best candidates from which the next are made [default: 8 with ropewalk, else 32]
    #[arg(long, value_name = "N")]
    pub parents: Option<u32>,

    /// Steps down the gradient between the curve and the pairs, for the price of six evaluations each; they need a worker
    /// that computes on the CPU (ropewalk only)
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub slope_steps: u32,

    /// Probability with which each dimension of a candidate mutates [default: 0.3]
    #[arg(long, value_name = "P")]
    pub mutation_probability: Option<f64>,

    /// Seed of every random choice; the same seed gives the same factors
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Numbers of starting tokens to choose from, ascending [default: those of the paper, 0 to 256; 0 for strategies that
    /// do not search them]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub start_tokens: Option<Vec<u32>>,

    /// Largest rescale factor [default: 1.25 times the extension ratio; longrope2: 2 times]
    #[arg(long, value_name = "FACTOR")]
    pub max_factor: Option<f64>,

    /// Distance of neighbouring rescale factors: 1/n for a whole n
    #[arg(long, default_value_t = 0.01)]
    pub step: f64,

    /// Attention factor: none, longrope, yarn or a number for all candidates, or search to find it with the factors
    #[arg(long, default_value_t = AttentionFactorPolicy::default(), value_name = "POLICY")]
    pub attention_factor: AttentionFactorPolicy,

    /// Search attention factors of single rotary pairs, too, after the factors, with N more evaluations at most [without N:
    /// 7, or 10 where the attention factor is searched: a tilt and a bend over the pairs]; ropewalk and longrope2 only. Limits
    /// on evaluations and passes hold for both together. Of exports, json and --apply can say them
    #[arg(long, value_name = "N", num_args = 0..=1)]
    pub pair_attention: Option<Option<u32>>,

    /// Where to start from, besides the strategy's own start: factor files (JSON or CSV), FILE#NAME for one set of a file of
    /// published sets, folders of finished searches, or job:ID (with launch); rescaled where they are for another ratio
    #[arg(long, value_name = "FILE|FILE#NAME|FOLDER|job:ID", num_args = 1..)]
    pub init: Vec<String>,

    /// Stop after this many generations without a better candidate
    #[arg(long, value_name = "N")]
    pub patience: Option<u32>,

    /// Open no new generation after this many seconds of searching (s, m, h may be added: 90m)
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub time_budget: Option<u64>,

    /// Never evaluate more candidates than this
    #[arg(long, value_name = "N")]
    pub max_evaluations: Option<u64>,

    /// Never spend more document passes than this on the search (candidates times samples, less what racing saves)
    #[arg(long, value_name = "N")]
    pub max_passes: Option<u64>,

    /// Drop a candidate before it was evaluated on every sample: never (off), when it will not become a parent, to 99.9 %
    /// (safe), or when it will not become one to 95 %, or is known well enough to be one by an estimate (fast)
    #[arg(long, default_value_t = Racing::Safe, value_name = "off|safe|fast")]
    pub racing: Racing,

    /// What is minimised: perplexity of long documents, needle (of numbers hidden near their start and asked for at their
    /// end), or mixture:W of both, with weight W of the needles; mixture is mixture:0.5
    #[arg(long, default_value_t = SearchObjective::Perplexity, value_name = "OBJECTIVE")]
    pub objective: SearchObjective,

    /// Windows that must not get worse, LENGTH:PERCENT each: at LENGTH tokens the perplexity on the beginnings of the documents
    /// searched may lie PERCENT above that of the model as shipped; what exceeds a limit ranks behind all that does not, and
    /// --racing drops nothing
    #[arg(long, value_name = "LENGTH:PERCENT", num_args = 1.., value_parser = crate::units::short_window)]
    pub keep_short: Vec<ShortWindow>,
}

impl SearchArgs {
    /// The options as the job states them, but for `--init`, whose files are read elsewhere.
    ///
    /// # Errors
    /// When the step is not of the form 1/n; everything else is checked with the whole job.
    pub fn options(&self) -> Result<SearchOptions, ropewalk_shared::grid::InvalidStep> {
        let strategy = match self.strategy {
            StrategyArg::LongRope => StrategyKind::LongRope,
            StrategyArg::Ropewalk => StrategyKind::Ropewalk,
            StrategyArg::DimMono => StrategyKind::DimMono,
            StrategyArg::DimPieceMono => StrategyKind::DimPieceMono,
            StrategyArg::LongRope2 => StrategyKind::LongRope2,
        };
        let usual = strategy.options();
        Ok(SearchOptions {
            strategy,
            seed: self.seed,
            evolution: EvolutionOptions {
                population: self.population.unwrap_or(usual.population),
                mutations: self.mutations.unwrap_or(usual.mutations),
                crossovers: self.crossovers.unwrap_or(usual.crossovers),
                generations: self.generations.unwrap_or(usual.generations),
                parents: self.parents.unwrap_or(usual.parents),
                mutation_probability: self.mutation_probability.unwrap_or(usual.mutation_probability),
            },
            slope_steps: self.slope_steps,
            grid: Grid::with_step(self.step)?,
            max_factor: self.max_factor,
            start_tokens: match &self.start_tokens {
                Some(choices) => choices.clone(),
                None if strategy.searches_start_tokens() => PAPER_START_TOKENS.to_vec(),
                None => vec![0],
            },
            pair_attention: self.pair_attention.map_or(0, |evaluations| {
                evaluations.unwrap_or_else(|| SearchOptions::usual_pair_attention(self.attention_factor))
            }),
            attention_factor: self.attention_factor,
            init: Vec::new(),
            patience: self.patience,
            max_evaluations: self.max_evaluations,
            time_budget_seconds: self.time_budget,
            objective: self.objective,
            racing: self.racing,
            max_passes: self.max_passes,
            keep_short: self.keep_short.clone(),
        })
    }
}
