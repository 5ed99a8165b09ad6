//! The memory suite.
