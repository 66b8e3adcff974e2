//! How values are written: a mark, then the bytes or how many of them lie in parts.
//!
//! Records are JSON behind a version byte; results are numbers of fixed size.

use ropewalk_shared::outcome::{Loss, LossSlope};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest value that is kept in one piece, and length of the parts of others.
pub(super) const PART_BYTES: usize = 16 << 10;
/// Longest value there is: a sample of the greatest length.
pub(super) const MAX_BYTES: usize = 128 << 20;
const WHOLE: u8 = 1;
const CUT: u8 = 2;
/// A sample that counts its last tokens alone, cut.
const COUNTED: u8 = 3;
/// Version of the records. A new one is added beside it, with the conversion from this one.
const RECORD: u8 = 1;

/// What stands under a value's own key.
pub(super) enum Head<'a> {
    Whole(&'a [u8]),
    /// Bytes of all parts; of a sample also where it begins to count, 1 for one that counts whole.
    Cut {
        length: usize,
        counted_from: u32,
    },
}

// === impl Head ===

impl<'a> Head<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes {
            [WHOLE, rest @ ..] => Some(Self::Whole(rest)),
            [CUT, rest @ ..] => {
                let length = u32::from_le_bytes(rest.try_into().ok()?) as usize;
                (length <= MAX_BYTES).then_some(Self::Cut { length, counted_from: 1 })
            }
            [COUNTED, rest @ ..] => {
                let ([length, counted_from], []) = rest.as_chunks::<4>() else { return None };
                let (length, counted_from) = (u32::from_le_bytes(*length) as usize, u32::from_le_bytes(*counted_from));
                (length <= MAX_BYTES).then_some(Self::Cut { length, counted_from })
            }
            _ => None,
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Whole(bytes) => [&[WHOLE], *bytes].concat(),
            Self::Cut { length, counted_from: 1 } => [&[CUT], (*length as u32).to_le_bytes().as_slice()].concat(),
            Self::Cut { length, counted_from } => {
                [&[COUNTED], (*length as u32).to_le_bytes().as_slice(), &counted_from.to_le_bytes()].concat()
            }
        }
    }
}

/// Number of parts of a value that was cut.
pub(super) fn parts(length: usize) -> u32 {
    length.div_ceil(PART_BYTES) as u32
}

pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![RECORD];
    // Records have text keys and write into memory: JSON cannot fail. A reader would find the record damaged.
    let _ = serde_json::to_writer(&mut bytes, record);
    bytes
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes {
        [RECORD, json @ ..] => serde_json::from_slice(json).map_err(|error| error.to_string()),
        [version, ..] => Err(format!("it has version {version}, this program reads version {RECORD}")),
        [] => Err("it is empty".into()),
    }
}

pub(super) fn encode_loss(loss: Loss) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&loss.nll_sum.to_le_bytes());
    bytes[8..].copy_from_slice(&loss.tokens.to_le_bytes());
    bytes
}

/// Ends a slope with the derivatives by the attention factors of pairs; one without ends with a number.
const WITH_PAIRS: u8 = 1;

/// The factors' derivatives, those of the pairs' attention factors where there are any, then the attention factor's: every
/// bit, NaN and infinity included.
pub(super) fn encode_slope(slope: &LossSlope) -> Vec<u8> {
    let numbers = slope.log_factors.iter().chain(&slope.log_pair_attention).chain([&slope.log_attention_factor]);
    let mut bytes: Vec<u8> = numbers.flat_map(|by| by.to_le_bytes()).collect();
    if !slope.log_pair_attention.is_empty() {
        bytes.push(WITH_PAIRS);
    }
    bytes
}

pub(super) fn decode_slope(bytes: &[u8]) -> Option<LossSlope> {
    let (numbers, end) = bytes.as_chunks::<8>();
    let mut log_factors: Vec<f64> = numbers.iter().map(|number| f64::from_le_bytes(*number)).collect();
    let log_attention_factor = log_factors.pop()?;
    let log_pair_attention = match end {
        [] => Vec::new(),
        [WITH_PAIRS] if log_factors.len().is_multiple_of(2) => log_factors.split_off(log_factors.len() / 2),
        _ => return None,
    };
    Some(LossSlope { log_factors, log_attention_factor, log_pair_attention })
}

pub(super) fn decode_loss(bytes: &[u8]) -> Option<Loss> {
    let (sum, tokens) = bytes.split_at_checked(8)?;
    Some(Loss {
        nll_sum: f64::from_le_bytes(sum.try_into().ok()?),
        tokens: u64::from_le_bytes(tokens.try_into().ok()?),
    })
}
