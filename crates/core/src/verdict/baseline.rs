//! What a fleet showed once, to hold later runs against.

use serde::{Deserialize, Serialize};

/// Version of the file format.
pub const BASELINE_SCHEMA: u32 = 1;
/// Largest baseline file accepted, bytes.
pub const MAX_BASELINE: usize = 64 << 20;

/// Medians by device model, case and provider; `baseline make` writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// [`BASELINE_SCHEMA`] of the writer.
    pub schema: u32,
    /// What it was made from, in words: `384 nodes, 24 to 26 November 2026`.
    pub made_from: String,
    /// One entry a metric, sorted by model, case, provider.
    pub entries: Vec<BaselineEntry>,
}

/// The usual figure of one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineEntry {
    /// Device model: id in specs.toml, or the driver's name.
    pub model: String,
    /// The case.
    pub case: String,
    /// Who did the work.
    pub provider: String,
    /// Unit of the figures.
    pub unit: String,
    /// Median over all devices of the model; of the larger group where there were two.
    pub median: f64,
    /// Median absolute deviation scaled to σ.
    pub mad: f64,
    /// How many devices.
    pub n: u32,
}

impl Baseline {
    /// Reads a baseline file.
    ///
    /// # Errors
    /// One sentence: too large, no baseline, a newer schema, or figures that are none.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_BASELINE {
            return Err(format!("a baseline has at most {} MiB", MAX_BASELINE >> 20));
        }
        let mut found: Self = serde_json::from_slice(text).map_err(|e| {
            // The parser quotes unknown keys as they are.
            format!("not a baseline: {}", e.to_string().replace(char::is_control, "\u{fffd}"))
        })?;
        if found.schema > BASELINE_SCHEMA {
            return Err(format!("baseline schema {} is newer than this ridgepoint reads ({BASELINE_SCHEMA})", found.schema));
        }
        if let Some(bad) = found.entries.iter().find(|e| !(e.median.is_finite() && e.median > 0.0 && e.mad >= 0.0)) {
            return Err(format!("the figure of {} is no positive number", bad.case.escape_debug()));
        }
        found.entries.sort_by(|a, b| a.key().cmp(&b.key()));
        Ok(found)
    }

    /// The entry of a metric.
    #[must_use]
    pub fn find(&self, model: &str, case: &str, provider: &str) -> Option<&BaselineEntry> {
        let at = self.entries.binary_search_by(|e| e.key().cmp(&(model, case, provider)));
        at.ok().map(|i| &self.entries[i])
    }
}

impl BaselineEntry {
    pub(super) fn key(&self) -> (&str, &str, &str) {
        (&self.model, &self.case, &self.provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_and_bad_files_are_sentences() {
        let entry = |case: &str| BaselineEntry {
            model: "M".into(),
            case: case.into(),
            provider: "p".into(),
            unit: "GB/s".into(),
            median: 3.0,
            mad: 0.1,
            n: 9,
        };
        let made = Baseline { schema: 1, made_from: "x".into(), entries: vec![entry("b"), entry("a")] };
        let read = Baseline::parse(&serde_json::to_vec(&made).unwrap()).unwrap();
        assert_eq!(read.find("M", "a", "p").unwrap().case, "a");
        assert_eq!(read.find("M", "c", "p"), None);
        let zero = Baseline { entries: vec![BaselineEntry { median: 0.0, ..entry("a") }], ..made.clone() };
        let newer = Baseline { schema: 9, ..made };
        for bad in
            [b"{".to_vec(), vec![0xff], serde_json::to_vec(&zero).unwrap(), serde_json::to_vec(&newer).unwrap(), b"[1]".to_vec()]
        {
            assert!(Baseline::parse(&bad).is_err());
        }
        let said = Baseline::parse(br#"{"\u001b[2J":1}"#).unwrap_err();
        assert!(said.contains("unknown field") && !said.contains(char::is_control), "{said:?}");
    }
}
