use super::packed::{Packed, Rows};
use super::*;
use proptest::prelude::*;

/// The emulation, and what the machine itself has.
pub(crate) fn units() -> Vec<Unit> {
    std::iter::once(Unit::Emulated).chain(Unit::all_native().into_iter().flatten()).collect()
}

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i + seed) * 7919 % 1013) as f32 - 506.0) / 506.0).collect()
}

/// `a` of 32 rows times the transpose of `b`, both `inputs` wide, by the definition in f64.
fn definition(a: &[f32], b: &[f32], inputs: usize) -> Vec<Vec<f64>> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    a.chunks(inputs).map(|a| b.chunks(inputs).map(|b| dot(a, b)).collect()).collect()
}

fn block_of(unit: Unit, a: &[f32], b: &Packed, parts: usize, inputs: usize, stride: usize) -> Vec<f32> {
    let mut rows = Rows::default();
    rows.clear(parts, BLOCK, b.steps());
    a.chunks(inputs).enumerate().for_each(|(row, numbers)| rows.write(row, numbers, 1.0));
    let mut out = vec![7.0; BLOCK * stride];
    let multiply = |out: &mut [f32], add| {
        let mut target = Target { data: out, stride, add };
        unit.session(|session| session.multiply((&rows, 0), (b, [0, 1], 0), b.steps(), &mut target));
    };
    multiply(&mut out, false);
    // Added to itself it is twice as much.
    let mut twice = out.clone();
    multiply(&mut twice, true);
    for (twice, once) in twice.chunks(stride).zip(out.chunks(stride)) {
        let near = |(twice, once): (&f32, &f32)| (twice - 2.0 * once).abs() <= 1e-4 * (1.0 + once.abs());
        assert!(twice[..BLOCK].iter().zip(once).all(near), "{}: {twice:?} is not twice {once:?}", unit.name());
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn blocks_are_products_to_the_precision_of_their_parts(
        columns in 1usize..=BLOCK, inputs in 1usize..200, parts in 1usize..=2, extra in 0usize..9, seed in 0usize..1000,
    ) {
        let (a, b) = (numbers(BLOCK * inputs, seed), numbers(columns * inputs, seed + 77));
        let want = definition(&a, &b, inputs);
        let packed = Packed::of_rows(&b, inputs, parts);
        // Rounding to bf16 moves a factor by 2^-8 of itself at most, and a split one by 2^-16; never all of them one way.
        let tolerance = inputs as f64 * if parts == 1 { 2.0f64.powi(-8) } else { 2.0f64.powi(-15) };
        for unit in units() {
            let stride = BLOCK + extra;
            let got = block_of(unit, &a, &packed, parts, inputs, stride);
            for (row, want) in got.chunks(stride).zip(&want) {
                for (got, want) in row.iter().zip(want) {
                    prop_assert!((f64::from(*got) - want).abs() < tolerance, "{}: {got} for {want}", unit.name());
                }
                prop_assert!(row[columns..BLOCK].iter().all(|number| *number == 0.0), "columns that are not there");
                prop_assert!(row[BLOCK..].iter().all(|number| *number == 7.0), "outside of the block");
            }
        }
    }
}

#[test]
fn columns_and_inputs_write_the_same_matrix() {
    let (columns, inputs) = (37, 70);
    let matrix = numbers(columns * inputs, 3);
    let by_columns = Packed::of_rows(&matrix, inputs, 2);
    let mut by_inputs = Packed::zeros(columns, inputs, 2);
    let numbers = |input| matrix.iter().skip(input).step_by(inputs).copied().collect::<Vec<f32>>();
    for input in 0..12 {
        by_inputs.write_input(input, &numbers(input));
    }
    for input in (12..inputs).step_by(2) {
        by_inputs.write_two_inputs(input, [&numbers(input), &numbers(input + 1)]);
    }
    for part in 0..2 {
        for strip in 0..4 {
            assert_eq!(by_columns.strip(part, strip, 0), by_inputs.strip(part, strip, 0), "part {part}, strip {strip}");
        }
    }
}

#[test]
#[should_panic(expected = "strips of B")]
fn short_operands_are_refused() {
    let (a, b) = (vec![bf16::ONE; TILE], vec![bf16::ONE; TILE - 1]);
    let part = Part { a: [&a, &a], b: [&b, &b] };
    let mut out = vec![0.0; BLOCK * BLOCK];
    Unit::Emulated
        .session(|session| session.block(&part, None, 1, &mut Target { data: &mut out, stride: BLOCK, add: false }));
}

/// What a session prepares on a thread stays ready until the outermost has ended.
#[test]
fn a_session_within_another_leaves_it_ready() {
    let (a, b) = (numbers(BLOCK * DEPTH, 1), numbers(BLOCK * DEPTH, 2));
    let packed = Packed::of_rows(&b, DEPTH, 1);
    for unit in units() {
        let alone = block_of(unit, &a, &packed, 1, DEPTH, BLOCK);
        let mut rows = Rows::default();
        rows.clear(1, BLOCK, 1);
        a.chunks(DEPTH).enumerate().for_each(|(row, numbers)| rows.write(row, numbers, 1.0));
        let mut after = vec![0.0; BLOCK * BLOCK];
        unit.session(|outer| {
            unit.session(|_| ());
            let mut target = Target { data: &mut after, stride: BLOCK, add: false };
            outer.multiply((&rows, 0), (&packed, [0, 1], 0), 1, &mut target);
        });
        assert_eq!(after, alone, "{}", unit.name());
    }
}
