//! Which kernel computes an attention on a GPU.

use super::AttentionShape;
use candle_core::DType;

/// What there is of FlashAttention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(any(test, feature = "flash-attn")), expect(dead_code, reason = "this build has none"))]
pub(crate) enum Flash {
    /// Nothing: the build has none, or what it has is wrong.
    Absent,
    /// Built without windows, which saves compilation: it computes full attention whatever window it is given.
    WithoutWindows,
    /// All of it.
    Whole,
}

/// The kernel for one attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The kernel of this crate for Hopper, for everything.
    Hopper,
    /// FlashAttention. A query sees this many keys before itself, or all.
    Flash {
        /// Keys to the left of the query's own.
        left: Option<usize>,
    },
    /// Streaming attention, for everything.
    Streaming,
}

/// Widest head that FlashAttention is used for.
const FLASH_HEAD_DIM: usize = 256;

/// Sizes of heads that Hopper's kernel is written for.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "this build has none"))]
pub(crate) const HOPPER_HEAD_DIMS: [usize; 3] = [64, 96, 128];

/// Hopper's kernel where it is present for such heads; else FlashAttention for half precision and heads of whole vectors of 8
/// numbers, where it has the window; streaming for the rest. All put the last query at the last key.
pub(crate) fn choose(shape: &AttentionShape, dtype: DType, hopper: bool, flash: impl Fn() -> Flash) -> Choice {
    if hopper && shape.window != Some(0) {
        return Choice::Hopper;
    }
    let format = matches!(dtype, DType::BF16 | DType::F16);
    let head = shape.head_dim.is_multiple_of(8) && shape.head_dim <= FLASH_HEAD_DIM;
    let flash = if format && head { flash() } else { Flash::Absent };
    match (format && head, flash, shape.window) {
        (true, Flash::Whole | Flash::WithoutWindows, None) => Choice::Flash { left: None },
        // Our window counts the query's own key.
        (true, Flash::Whole, Some(window)) if window > 0 => Choice::Flash { left: Some(window - 1) },
        _ => Choice::Streaming,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_go_where_they_are_honoured() {
        let shape = |window| AttentionShape { heads: 8, kv_heads: 2, head_dim: 128, window };
        let all = shape(None);
        for dtype in [DType::BF16, DType::F16] {
            assert_eq!(choose(&all, dtype, false, || Flash::Whole), Choice::Flash { left: None });
            assert_eq!(choose(&all, dtype, false, || Flash::WithoutWindows), Choice::Flash { left: None });
            assert_eq!(choose(&all, dtype, false, || Flash::Absent), Choice::Streaming);
            assert_eq!(choose(&shape(Some(4096)), dtype, false, || Flash::WithoutWindows), Choice::Streaming);
        }
        assert_eq!(choose(&all, DType::F32, false, || Flash::Whole), Choice::Streaming);
        for (head_dim, flash) in [(64, true), (80, true), (256, true), (60, false), (264, false)] {
            let choice = choose(&AttentionShape { head_dim, ..all }, DType::BF16, false, || Flash::Whole);
            assert_eq!(choice != Choice::Streaming, flash, "{head_dim}");
        }
    }

    #[test]
    fn hoppers_kernel_comes_first() {
        let shape = |window| AttentionShape { heads: 8, kv_heads: 2, head_dim: 128, window };
        for window in [None, Some(1), Some(4096)] {
            assert_eq!(choose(&shape(window), DType::BF16, true, || panic!("nobody asks")), Choice::Hopper);
        }
        assert_eq!(choose(&shape(Some(0)), DType::BF16, true, || Flash::Whole), Choice::Streaming);
    }

    #[test]
    fn the_keys_to_the_left_are_those_of_the_definition() {
        for window in [1, 2, 4096] {
            let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 64, window: Some(window) };
            let Choice::Flash { left: Some(left) } = choose(&shape, DType::F16, false, || Flash::Whole) else {
                panic!("FlashAttention has windows")
            };
            for position in [0, 1, 5000] {
                assert_eq!(shape.first_key(position), position.saturating_sub(left), "{window} at {position}");
            }
        }
    }
}
