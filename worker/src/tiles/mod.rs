//! Products of small blocks in bf16 with sums in f32, as matrix units compute them.
//!
//! ```text
//! C[i][n] = sum_t sum_k A_t[i][k] B_t[k][n]        i, n < 32
//! ```
//!
//! `A` are rows of bf16; `B` comes in strips of 16 columns, laid out by [`packed`] as AMX reads them. One term is a product
//! in bf16. With both factors split in two, `x = hi + lo`, the three terms `hi hi + hi lo + lo hi` give about 16 bits of
//! mantissa ("bf16x3").
//!
//! [`Unit`] is what computes them: AMX, or AVX-512's dot products, where the machine has them, or an emulation in plain code that
//! tests use everywhere.

pub(crate) mod aligned;
mod amx;
mod dot;
mod emulated;
pub(crate) mod packed;

use half::bf16;

/// Rows of a block, and columns.
pub(crate) const BLOCK: usize = 32;
/// Columns of a strip.
pub(crate) const STRIP: usize = 16;
/// Rows of `B` that one step takes: numbers of a row of `A`.
pub(crate) const DEPTH: usize = 32;
/// Numbers of a strip in one step.
pub(crate) const TILE: usize = STRIP * DEPTH;
/// Terms of a block at most: one in bf16, three in bf16x3.
const MAX_TERMS: usize = 3;

/// What computes blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Intel's tiles.
    Amx(amx::Amx),
    /// Dot products of pairs in vectors of AVX-512.
    Dot(dot::Dot),
    /// Plain code: slow, and the same on every machine.
    Emulated,
}

/// One product of a block: `A` and two strips of `B` side by side.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    /// [`BLOCK`] rows, `stride` numbers apart, of at least [`DEPTH`] numbers a step.
    pub a: &'a [bf16],
    pub stride: usize,
    /// [`TILE`] numbers a step.
    pub b: [&'a [bf16]; 2],
}

/// Where a block goes: [`BLOCK`] rows, `stride` numbers apart.
pub(crate) struct Target<'a> {
    pub data: &'a mut [f32],
    pub stride: usize,
    /// Whether products are added to what is there.
    pub add: bool,
}

// === impl Unit ===

impl Unit {
    /// The best that this machine has for numbers in so many parts, if it has one that computes what it should.
    ///
    /// Three products of two parts take dot products longer than f32's own fused multiply-add takes one in f32.
    pub fn native(parts: usize) -> Option<Self> {
        let [amx, dot] = Self::all_native();
        amx.or(dot.filter(|_| parts == 1))
    }

    /// All that this machine has, the best first.
    pub fn all_native() -> [Option<Self>; 2] {
        [amx::Amx::get().map(Self::Amx), dot::Dot::get().map(Self::Dot)]
    }

    /// For logs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx(_) => "amx",
            Self::Dot(_) => "avx512-bf16",
            Self::Emulated => "emulated",
        }
    }

    /// Prepares the unit on this thread for the blocks that `work` computes. It must not hand them to other threads.
    pub fn session<R>(self, work: impl FnOnce(&Session) -> R) -> R {
        let session = Session(self);
        if let Self::Amx(amx) = self {
            amx.begin();
        }
        let result = work(&session);
        drop(session);
        result
    }
}

/// A unit that is ready on this thread.
pub(crate) struct Session(Unit);

impl Session {
    /// Writes, or adds, the product of [`BLOCK`] rows from `row` on and the strips with these numbers, of so many steps from `step` on,
    /// to `target`: of all pairs of parts that matter.
    ///
    /// # Panics
    /// As [`Self::block`].
    pub fn multiply(
        &self,
        (a, row): (&packed::Rows, usize),
        (b, strips, step): (&packed::Packed, [usize; 2], usize),
        steps: usize,
        target: &mut Target<'_>,
    ) {
        let term = |&(i, j): &(usize, usize)| Term {
            a: a.from(i, row),
            stride: a.stride(),
            b: strips.map(|strip| b.strip(j, strip, step)),
        };
        let pairs = packed::pairs(b.parts());
        let mut terms = [term(&pairs[0]); MAX_TERMS];
        terms.iter_mut().zip(pairs).for_each(|(to, pair)| *to = term(pair));
        self.block(&terms[..pairs.len()], steps, target);
    }

    /// Writes the sum of the `terms`, each of `steps` steps, to `target`, or adds it.
    ///
    /// # Panics
    /// When a slice is too short for that.
    fn block(&self, terms: &[Term<'_>], steps: usize, target: &mut Target<'_>) {
        let rows = |stride: usize, width: usize| (BLOCK - 1) * stride + width;
        for term in terms {
            assert!(term.stride >= steps * DEPTH && term.a.len() >= rows(term.stride, steps * DEPTH), "rows of A");
            assert!(term.b.iter().all(|strip| strip.len() >= steps * TILE), "strips of B");
        }
        assert!(target.stride >= BLOCK && target.data.len() >= rows(target.stride, BLOCK), "rows of C");
        match self.0 {
            // The lengths are checked above, and the unit was made ready by `Unit::session`.
            Unit::Amx(amx) => amx.block(self, terms, steps, target),
            Unit::Dot(dot) => dot.block(terms, steps, target),
            Unit::Emulated => emulated::block(terms, steps, target),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Unit::Amx(amx) = self.0 {
            amx.end();
        }
    }
}

/// Whether a unit computes a block with terms, steps and strides like those of real work as the emulation does.
#[cfg(target_arch = "x86_64")]
fn is_right(unit: Unit) -> bool {
    let (inputs, number) = (3 * DEPTH, |i: usize| ((i * 7919 % 1013) as f32 - 506.0) / 506.0);
    let numbers = |seed: usize| (0..BLOCK * inputs).map(|i| number(i + seed)).collect::<Vec<_>>();
    let (a, b) = (numbers(1), numbers(5));
    let (mut rows, packed) = (packed::Rows::default(), packed::Packed::of_rows(&b, inputs, 2));
    rows.clear(2, BLOCK, packed.steps());
    a.chunks(inputs).enumerate().for_each(|(row, numbers)| rows.write(row, numbers, 1.0));
    let stride = BLOCK + 5;
    let [got, want] = [unit, Unit::Emulated].map(|unit| {
        let mut data = vec![f32::NAN; BLOCK * stride];
        let mut target = Target { data: &mut data, stride, add: false };
        let right = (&packed, [0, 1], 0);
        unit.session(|session| session.multiply((&rows, 0), right, packed.steps(), &mut target));
        data
    });
    let near = |(got, want): (&f32, &f32)| (got - want).abs() < 1e-4 || (got.is_nan() && want.is_nan());
    got.iter().zip(&want).all(near)
}

#[cfg(test)]
pub(crate) mod tests;
