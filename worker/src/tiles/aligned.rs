//! Numbers that begin with a cache line: a row of a tile is 64 bytes, and one that lies in two lines takes two loads.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Numbers the first of which begins a cache line, zero until they are written.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    data: Vec<T>,
    begin: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// So many zeros.
    pub fn zeros(len: usize) -> Self {
        let mut zeros = Self::default();
        zeros.clear(len);
        zeros
    }

    /// So many zeros in place of what is there; room that is there already is used again.
    pub fn clear(&mut self, len: usize) {
        self.data.clear();
        self.data.resize(len + LINE / size_of::<T>(), T::default());
        self.begin = self.data.as_ptr().align_offset(LINE);
        self.len = len;
    }
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self { data: Vec::new(), begin: 0, len: 0 }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.begin..][..self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.begin..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_begins_a_line() {
        let mut numbers = Aligned::<u16>::zeros(5);
        for len in [1, 31, 32, 33, 5000, 0, 7] {
            numbers.clear(len);
            assert_eq!((numbers.len(), numbers.as_ptr().addr() % LINE), (len, 0));
            assert!(numbers.iter().all(|number| *number == 0));
            numbers.fill(9);
        }
    }
}
