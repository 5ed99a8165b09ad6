//! The collectives suite.
