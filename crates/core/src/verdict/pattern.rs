//! The two little languages of a rule file: patterns with `*` and `?`, and requirements on versions. Neither is evaluated,
//! both take time in proportion to the text.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;

/// A pattern over a whole text: `*` stands for any run of characters, `?` for one. Case matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// Longest pattern accepted.
    pub const MAX_LEN: usize = 256;

    /// Checks `text` and makes it a pattern.
    ///
    /// # Errors
    /// One sentence when it is empty, too long or holds control characters.
    pub fn new(text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        if text.is_empty() || text.len() > Self::MAX_LEN || text.chars().any(char::is_control) {
            return Err(format!("a pattern has 1 to {} characters and no control characters", Self::MAX_LEN));
        }
        Ok(Self(text))
    }

    /// Matches everything.
    #[must_use]
    pub fn any() -> Self {
        Self("*".into())
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if it matches the whole of `text`. Greedy with one point of return, so at most |pattern| × |text| steps.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(c) if *c == b'?' || *c == text[t] => {
                    p += 1;
                    t += 1;
                }
                _ => match star {
                    Some((at, from)) => {
                        star = Some((at, from + 1));
                        p = at + 1;
                        t = from + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == b'*')
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a version must be: a pattern (`96.00.*`), or a bound (`>=570.86`, `<13`), or several joined by commas, all of which
/// must hold. Versions compare number by number, so that 9.10 is above 9.9; text after them (`580.159.04 (CUDA 13.0)`) is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Like(Pattern),
    Bound(Bound, Vec<u64>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    AtLeast,
    Above,
    AtMost,
    Below,
}

impl Requirement {
    /// Parses a requirement.
    ///
    /// # Errors
    /// One sentence that names the part that is none.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        for part in text.split(',').map(str::trim) {
            let bounds = [(">=", Bound::AtLeast), ("<=", Bound::AtMost), (">", Bound::Above), ("<", Bound::Below)];
            parts.push(match bounds.into_iter().find_map(|(sign, bound)| Some((bound, part.strip_prefix(sign)?))) {
                Some((bound, version)) => {
                    let numbers = numbers(version.trim());
                    if numbers.is_empty() {
                        return Err(format!("'{}' names no version; write >=570.86 or 570.*", part.escape_debug()));
                    }
                    Part::Bound(bound, numbers)
                }
                None => Part::Like(Pattern::new(part)?),
            });
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if `version` meets every part.
    #[must_use]
    pub fn allows(&self, version: &str) -> bool {
        let found = numbers(version);
        self.parts.iter().all(|part| match part {
            Part::Like(pattern) => pattern.matches(version),
            Part::Bound(_, _) if found.is_empty() => false,
            Part::Bound(bound, wanted) => {
                let order = compare(&found, wanted);
                match bound {
                    Bound::AtLeast => order != Ordering::Less,
                    Bound::Above => order == Ordering::Greater,
                    Bound::AtMost => order != Ordering::Greater,
                    Bound::Below => order == Ordering::Less,
                }
            }
        })
    }
}

impl Serialize for Requirement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// The leading numbers of a version, at most eight of them: `580.159.04 (CUDA 13.0)` gives 580, 159, 4.
fn numbers(version: &str) -> Vec<u64> {
    let start = version.find(|c: char| c.is_ascii_digit()).unwrap_or(version.len());
    let version = &version[start..];
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    version[..end].split('.').take(8).map_while(|n| n.parse().ok()).collect()
}

/// Number by number; what the shorter lacks counts as zero.
fn compare(a: &[u64], b: &[u64]) -> Ordering {
    let at = |v: &[u64], i: usize| v.get(i).copied().unwrap_or(0);
    (0..a.len().max(b.len())).map(|i| at(a, i).cmp(&at(b, i))).find(|o| *o != Ordering::Equal).unwrap_or(Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, expected) in [
            ("memory/read/*/f32", "memory/read/1GiB/f32", true),
            ("memory/read/*/f32", "memory/read/1GiB/f32/hot", false),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b", "xaxab", true),
            ("*a*b", "xaxa", false),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(text), expected, "{pattern} on {text}");
        }
        assert!(Pattern::new("").is_err() && Pattern::new("a\nb").is_err());
    }

    #[test]
    fn versions_compare_by_number() {
        for (requirement, version, expected) in [
            (">=570.86", "580.159.04 (CUDA 13.0)", true),
            (">=9.10", "9.9.1", false),
            (">=9.10, <10", "9.10.2", true),
            (">=9.10, <10", "10.0", false),
            ("96.00.*", "96.00.89", true),
            (">=1", "unknown", false),
            ("<=2.28", "2.28.0", true),
            (">2.28", "2.28.0", false),
        ] {
            assert_eq!(Requirement::new(requirement).unwrap().allows(version), expected, "{requirement} on {version}");
        }
        assert!(Requirement::new(">=").is_err() && Requirement::new("").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_a_text_matches_itself(text in "[a-z/0-9]{1,40}", pattern in "[a*?]{1,60}") {
            prop_assert!(Pattern::new(text.clone()).unwrap().matches(&text));
            let _ = Pattern::new(pattern).unwrap().matches(&"a".repeat(200));
            if let Ok(r) = Requirement::new(&text) {
                let _ = r.allows(&text);
            }
        }
    }
}
