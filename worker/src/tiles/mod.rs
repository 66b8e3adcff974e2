//! Products of small blocks in bf16 with sums in f32, as matrix units compute them.
//!
//! ```text
//! C[i][n] = sum_t sum_k A_t[i][k] B_t[k][n]        i, n < 32
//! ```
//!
//! Both factors are laid out by [`packed`] in tiles as AMX reads them: `A` in 16 rows, `B` in strips of 16 columns. One term
//! is a product in bf16. With both factors split in two, `x = hi + lo`, the three terms `hi hi + hi lo + lo hi` give about 16 bits of
//! mantissa ("bf16x3").
//!
//! [`Unit`] is what computes them: AMX, or AVX-512's dot products, where the machine has them, or an emulation in plain code that
//! tests use everywhere.

pub(crate) mod aligned;
mod amx;
mod dot;
mod emulated;
pub(crate) mod packed;
pub(crate) mod split;

use half::bf16;
use std::cell::Cell;
use std::marker::PhantomData;

/// Rows of a block, and columns.
pub(crate) const BLOCK: usize = 32;
/// Columns of a strip.
pub(crate) const STRIP: usize = 16;
/// Rows of `B` that one step takes: numbers of a row of `A`.
pub(crate) const DEPTH: usize = 32;
/// Numbers of a strip in one step.
pub(crate) const TILE: usize = STRIP * DEPTH;
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

/// What is multiplied in a block, in one part: tiles of a step, one after the other, [`TILE`] numbers each.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    /// The upper 16 rows of the left factor, and the lower ones.
    a: [&'a [bf16]; 2],
    /// Two strips of the right factor, side by side.
    b: [&'a [bf16]; 2],
}

/// Where a block goes: [`BLOCK`] rows, `stride` numbers apart.
pub(crate) struct Target<'a> {
    pub data: &'a mut [f32],
    pub stride: usize,
    /// Whether products are added to what is there.
    pub add: bool,
}

// === impl Part ===

impl<'a> Part<'a> {
    // Written out rather than mapped: this comes before every block, and arrays that go through memory stall it.
    #[inline(always)]
    fn of(
        part: usize,
        (a, row): (&'a packed::Rows, usize),
        (b, strips, step): (&'a packed::Packed, [usize; 2], usize),
    ) -> Self {
        let strips = [b.strip(part, strips[0], step), b.strip(part, strips[1], step)];
        Self { a: [a.half(part, row), a.half(part, row + STRIP)], b: strips }
    }

    #[inline(always)]
    fn check(&self, steps: usize) {
        assert!(self.a[0].len() >= steps * TILE && self.a[1].len() >= steps * TILE, "rows of A");
        assert!(self.b[0].len() >= steps * TILE && self.b[1].len() >= steps * TILE, "strips of B");
    }
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

    /// Prepares the unit on this thread for the blocks that `work` computes.
    pub fn session<R>(self, work: impl FnOnce(&Session) -> R) -> R {
        work(&Session::begin(self))
    }
}

thread_local! {
    /// Sessions of this thread, one within the other.
    static OPEN: Cell<usize> = const { Cell::new(0) };
}

/// A unit that is ready on this thread, and on no other.
pub(crate) struct Session(Unit, PhantomData<*const ()>);

impl Session {
    fn begin(unit: Unit) -> Self {
        let outer = OPEN.replace(OPEN.get() + 1);
        if let (Unit::Amx(amx), 0) = (unit, outer) {
            amx.begin();
        }
        Self(unit, PhantomData)
    }

    /// Writes, or adds, the product of [`BLOCK`] rows from `row` on and the strips with these numbers to `target`: of so many
    /// steps, in the strips from this one on, and of all pairs of parts that matter.
    ///
    /// # Panics
    /// When there are not as many, or `row` is no multiple of [`STRIP`].
    #[inline(always)]
    pub fn multiply(
        &self,
        (a, row): (&packed::Rows, usize),
        (b, strips, step): (&packed::Packed, [usize; 2], usize),
        steps: usize,
        target: &mut Target<'_>,
    ) {
        let hi = Part::of(0, (a, row), (b, strips, step));
        if b.parts() > 1 {
            let lo = Part::of(1, (a, row), (b, strips, step));
            self.block(&hi, Some(&lo), steps, target);
        } else {
            self.block(&hi, None, steps, target);
        }
    }

    /// Writes the product of `hi`, or of `hi + lo` less the smallest term, to `target`, or adds it.
    ///
    /// # Panics
    /// When a slice is too short for that.
    #[inline(always)]
    fn block(&self, hi: &Part<'_>, lo: Option<&Part<'_>>, steps: usize, target: &mut Target<'_>) {
        assert!(steps > 0, "steps of a block");
        hi.check(steps);
        if let Some(lo) = lo {
            lo.check(steps);
        }
        let rows = (BLOCK - 1) * target.stride + BLOCK;
        assert!(target.stride >= BLOCK && target.data.len() >= rows, "rows of C");
        match self.0 {
            // SAFETY: the lengths are checked above, and `begin` has made the unit ready on this thread.
            Unit::Amx(amx) => unsafe { amx.block(hi, lo, steps, target) },
            // SAFETY: the lengths are checked above.
            Unit::Dot(dot) => unsafe { dot.block(hi, lo, steps, target) },
            Unit::Emulated => emulated::block(hi, lo, steps, target),
        }
    }
}

/// The terms of the product of `hi`, or of `hi + lo`: all but that of the small parts.
fn terms<'a>(hi: &Part<'a>, lo: Option<&Part<'a>>) -> impl Iterator<Item = Part<'a>> + Clone {
    let small = lo.map(|lo| [Part { a: lo.a, b: hi.b }, Part { a: hi.a, b: lo.b }]);
    small.into_iter().flatten().chain([*hi])
}

impl Drop for Session {
    fn drop(&mut self) {
        let open = OPEN.get() - 1;
        OPEN.set(open);
        // The innermost to end must not take the registers from those around it.
        if let (Unit::Amx(amx), 0) = (self.0, open) {
            amx.end();
        }
    }
}

/// Whether a unit computes blocks with steps and strides like those of real work as the emulation does: in one part and in two,
/// written and added.
#[cfg(target_arch = "x86_64")]
fn is_right(unit: Unit) -> bool {
    let (inputs, number) = (3 * DEPTH, |i: usize| ((i * 7919 % 1013) as f32 - 506.0) / 506.0);
    let numbers = |seed: usize| (0..BLOCK * inputs).map(|i| number(i + seed)).collect::<Vec<_>>();
    let (a, b) = (numbers(1), numbers(5));
    let near = |got: f32, want: f32| (got - want).abs() < 1e-4 || (got.is_nan() && want.is_nan());
    [(1, false), (1, true), (2, false), (2, true)].into_iter().all(|(parts, add)| {
        let (mut rows, packed) = (packed::Rows::default(), packed::Packed::of_rows(&b, inputs, parts));
        rows.clear(parts, BLOCK, packed.steps());
        a.chunks(inputs).enumerate().for_each(|(row, numbers)| rows.write(row, numbers, 1.0));
        let stride = BLOCK + 5;
        let [got, want] = [unit, Unit::Emulated].map(|unit| {
            // What is written over may be anything.
            let there = |i: usize| if add { number(i) } else { f32::NAN };
            let mut data: Vec<f32> = (0..BLOCK * stride).map(there).collect();
            let mut target = Target { data: &mut data, stride, add };
            let right = (&packed, [0, 1], 0);
            unit.session(|session| session.multiply((&rows, 0), right, packed.steps(), &mut target));
            data
        });
        got.iter().zip(&want).all(|(&got, &want)| near(got, want))
    })
}

#[cfg(test)]
pub(crate) mod tests;
