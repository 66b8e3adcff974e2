use super::host::{Argument, Format, buffer, bytes_of, integer, is_here, launch};
use super::{every_format, noise};
use half::{bf16, f16};

/// What is known of the rows, as the kernels keep it.
struct State {
    max: Vec<u8>,
    sum: Vec<u8>,
    found: Vec<u8>,
    likeliest: Vec<u8>,
}

/// Sum of the losses and number of right rows, after the parts of the vocabulary were taken in, and each row's likeliest token.
fn run<T: Format>(logits: &[Vec<T>], targets: &[u32], part: usize) -> (f64, f64, Vec<u32>) {
    let (rows, vocabulary) = (logits.len(), logits[0].len());
    // What is there before the first part does not matter.
    let used = |bytes: usize| vec![0x41; bytes * rows];
    let mut state = State { max: used(4), sum: used(8), found: used(4), likeliest: used(4) };
    for first in (0..vocabulary).step_by(part) {
        let width = part.min(vocabulary - first);
        let block: Vec<T> = logits.iter().flat_map(|row| row[first..first + width].iter().copied()).collect();
        let kept = [state.max, state.sum, state.found, state.likeliest].map(Argument::Buffer);
        let arguments = [buffer(&block), bytes_of(targets, |target| target.to_le_bytes())].into_iter().chain(kept);
        let arguments: Vec<_> = arguments.chain([integer(first), integer(width)]).collect();
        let after = launch(&format!("cross_entropy_add_{}", T::NAME), rows, 64, &arguments);
        let [_, _, max, sum, found, likeliest] = after.try_into().unwrap();
        state = State { max, sum, found, likeliest };
    }
    let likeliest = state.likeliest.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect();
    let arguments = [state.max, state.sum, state.found, vec![0; 16]].map(Argument::Buffer).into_iter();
    let out = launch("cross_entropy_finish", 1, 64, &arguments.chain([integer(rows)]).collect::<Vec<_>>());
    let out: Vec<_> = out[3].chunks(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect();
    (out[0], out[1], likeliest)
}

#[test]
fn losses_in_parts_are_those_of_the_whole_vocabulary() {
    fn check<T: Format>() {
        // More rows than the threads that add them up.
        let (rows, vocabulary) = (70, 211);
        let scaled = |x: T, row: usize| T::from_f64(x.to_f64() * (1.0 + row as f64));
        let row = |row: usize| noise::<T>(vocabulary, 10 + row).into_iter().map(|x| scaled(x, row)).collect();
        let logits: Vec<Vec<T>> = (0..rows).map(row).collect();
        let (mut want, mut right, mut best) = (0.0, 0.0, Vec::new());
        let mut targets = Vec::new();
        for (row, logits) in logits.iter().enumerate() {
            let logits: Vec<f64> = logits.iter().map(|x| x.to_f64()).collect();
            let max = logits.iter().copied().fold(f64::MIN, f64::max);
            best.push(logits.iter().position(|x| *x == max).unwrap() as u32);
            // Every third target is the likeliest.
            targets.push(if row % 3 == 0 { best[row] } else { (row * 29 % vocabulary) as u32 });
            let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
            let target = logits[targets[row] as usize];
            want += max + sum.ln() - target;
            right += f64::from(u8::from(target == max));
        }
        // 64: some parts are whole vectors, the last is not.
        for part in [50, 64, 211, 1000] {
            let (nll, correct, likeliest) = run(&logits, &targets, part);
            assert!((nll - want).abs() < 1e-6 * want, "{}: {nll} for {want}", T::NAME);
            assert_eq!((correct, &likeliest), (right, &best), "{} in parts of {part}", T::NAME);
        }
    }
    if is_here() {
        every_format!(check);
    }
}

#[test]
fn what_is_no_number_stays_none_and_minus_infinity_is_one() {
    if !is_here() {
        return;
    }
    let infinity = f32::INFINITY;
    // A part of the vocabulary that is all minus infinity, first or last, changes nothing.
    for logits in [vec![-infinity, -infinity, 1.0, 3.0], vec![1.0, 3.0, -infinity, -infinity]] {
        let target = logits.iter().position(|x| *x == 3.0).unwrap() as u32;
        let (nll, correct, likeliest) = run(&[logits], &[target], 2);
        assert!((nll - (-2.0f64).exp().ln_1p()).abs() < 1e-6, "{nll}");
        assert_eq!((correct, likeliest), (1.0, vec![target]));
    }
    for logits in [vec![1.0, f32::NAN, 2.0, 3.0], vec![1.0, 2.0, infinity, 3.0], vec![f32::NAN; 4]] {
        let (nll, correct, _) = run(&[logits], &[3], 2);
        assert!(nll.is_nan() && correct == 0.0, "{nll}");
    }
}
