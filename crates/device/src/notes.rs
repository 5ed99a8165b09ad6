//! Small findings kept between runs, beside the compiled kernels: text by a key that is compared whole.

use crate::cache::Cache;
use std::path::PathBuf;

fn cache() -> Option<Cache> {
    Cache::of_user("tuned", &|key| std::env::var_os(key).map(PathBuf::from))
}

/// What was kept under this very key, if anything was.
#[must_use]
pub fn recall(key: &str) -> Option<String> {
    String::from_utf8(cache()?.get(key)?).ok()
}

/// Keeps a text; where there is no place for it nothing happens.
pub fn remember(key: &str, text: &str) {
    if let Some(cache) = cache() {
        cache.put(key, text.as_bytes());
    }
}
