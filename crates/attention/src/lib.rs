//! The attention suite.
