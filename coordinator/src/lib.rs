//! Searches rescale factors.
