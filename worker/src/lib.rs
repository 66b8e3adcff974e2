//! Evaluates candidates.
