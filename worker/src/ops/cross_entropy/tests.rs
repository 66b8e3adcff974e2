use super::*;
use candle_core::Device;
use proptest::prelude::*;

fn logits(rows: usize, vocab: usize) -> Vec<f32> {
    (0..rows * vocab).map(|i| ((i * 7919 % 1013) as f32 - 506.0) * 0.05).collect()
}

fn expected(logits: &[f32], vocab: usize, targets: &[u32]) -> f64 {
    let rows = logits.chunks(vocab).zip(targets).map(|(row, target)| {
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
        f64::from(max) + sum.ln() - f64::from(row[*target as usize])
    });
    rows.sum()
}

fn measured(kernels: Kernels, logits: &[f32], vocab: usize, targets: &[u32], block: usize) -> f64 {
    let all = Tensor::from_slice(logits, (targets.len(), vocab), &Device::Cpu).unwrap();
    let mut loss = CrossEntropy::new(targets);
    for first in (0..vocab).step_by(block) {
        let part = all.narrow(1, first, block.min(vocab - first)).unwrap();
        loss.add(kernels, &part, first).unwrap();
    }
    loss.finish()
}

#[test]
fn blocks_of_the_vocabulary_add_up_to_the_definition() {
    for (rows, vocab) in [(1, 1), (3, 17), (20, 97), (9, 1000)] {
        let logits = logits(rows, vocab);
        let targets: Vec<u32> = (0..rows).map(|row| (row * 31 % vocab) as u32).collect();
        let want = expected(&logits, vocab, &targets);
        for block in [1, 16, 64, 4096] {
            for kernels in [Kernels::Cpu, Kernels::Tensor] {
                let got = measured(kernels, &logits, vocab, &targets, block);
                assert!(
                    (got - want).abs() < 1e-5 * rows as f64,
                    "{kernels:?} {rows}x{vocab} by {block}: {got} for {want}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_blocks_of_any_vocabulary_add_up(rows in 1usize..30, vocab in 1usize..1500, block in 1usize..1600) {
        let logits = logits(rows, vocab);
        let targets: Vec<u32> = (0..rows).map(|row| (row * 31 % vocab) as u32).collect();
        let want = expected(&logits, vocab, &targets);
        for kernels in [Kernels::Cpu, Kernels::Tensor] {
            let got = measured(kernels, &logits, vocab, &targets, block);
            prop_assert!((got - want).abs() < 1e-5 * rows as f64, "{kernels:?}: {got} for {want}");
        }
    }
}

#[test]
fn every_instruction_set_sums_alike() {
    let row = logits(1, 1003);
    let (max, sum) = Arch::Scalar.dispatch(MaxAndSum(&row));
    for arch in simd::available() {
        let (other_max, other) = arch.dispatch(MaxAndSum(&row));
        assert_eq!(max, other_max);
        assert!((other / sum - 1.0).abs() < 1e-6, "{}", simd::name(arch));
    }
}

#[test]
fn broken_logits_give_a_loss_that_is_not_finite() {
    for broken in [f32::NAN, f32::INFINITY] {
        for at in [0, 40, 96] {
            for kernels in [Kernels::Cpu, Kernels::Tensor] {
                let mut logits = logits(2, 97);
                logits[at] = broken;
                assert!(!measured(kernels, &logits, 97, &[3, 4], 32).is_finite(), "{broken} at {at}, {kernels:?}");
            }
        }
    }
    // Everything but the target impossible: certain, and no loss.
    let mut certain = vec![f32::NEG_INFINITY; 97];
    certain[5] = 1.0;
    for kernels in [Kernels::Cpu, Kernels::Tensor] {
        assert_eq!(measured(kernels, &certain, 97, &[5], 32), 0.0, "{kernels:?}");
    }
}
