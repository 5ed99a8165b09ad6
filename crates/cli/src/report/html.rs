//! One self-contained page: no network, no dependency, readable on a phone and in print.

use super::Model;

pub(crate) fn render(_model: &Model) -> String {
    String::new()
}
