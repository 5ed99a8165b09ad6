//! A table of a TOML document, read key by key; mistakes gather with their places instead of ending the reading.

use crate::verdict::{Pattern, Requirement};
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Most mistakes that are listed; a file that is wrong throughout needs no more.
const MAX_MISTAKES: usize = 100;
/// Longest text accepted as a value.
const MAX_TEXT: usize = 4096;
/// Most names read of a table of names.
const MAX_NAMES: usize = 256;

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Mistake {
    /// Line, from 1; 0 where it is about the whole file.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong and what to write instead.
    pub text: String,
}

impl Mistake {
    pub(crate) fn new((line, column): (u32, u32), text: String) -> Self {
        Self { line, column, text }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.text)
    }
}

/// Line and column of a byte, from 1.
pub(crate) fn place(text: &str, at: usize) -> (u32, u32) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

/// A table under reading.
pub(crate) struct Section<'t, 'm> {
    text: &'t str,
    table: &'t DeTable<'t>,
    start: usize,
    mistakes: &'m mut Vec<Mistake>,
}

impl<'t, 'm> Section<'t, 'm> {
    pub(crate) fn new(text: &'t str, table: &'t DeTable<'t>, start: usize, mistakes: &'m mut Vec<Mistake>) -> Self {
        Self { text, table, start, mistakes }
    }

    /// The line it starts on.
    pub(crate) fn line(&self) -> u32 {
        place(self.text, self.start).0
    }

    /// True while nothing was found wrong, here or before.
    pub(crate) fn clean(&self) -> bool {
        self.mistakes.is_empty()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table.get(key)
    }

    fn add(&mut self, at: usize, text: String) {
        if self.mistakes.len() < MAX_MISTAKES {
            self.mistakes.push(Mistake::new(place(self.text, at), text));
        }
    }

    /// Something wrong with the value of `key`.
    pub(crate) fn mistake(&mut self, key: &str, text: String) {
        let at = self.get(key).map_or(self.start, |v| v.span().start);
        self.add(at, text);
    }

    /// `key` is not there and must be.
    pub(crate) fn missing(&mut self, key: &str, what: &str) {
        self.add(self.start, format!("'{key}' is missing: {what}"));
    }

    /// Every key that is not among `known` is a mistake.
    pub(crate) fn only(&mut self, known: &[&str]) {
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if self.mistakes.len() >= MAX_MISTAKES {
                return;
            }
            if !known.contains(&name) {
                let hint = nearest(name, known)
                    .map_or_else(|| format!("; known here: {}", known.join(", ")), |near| format!("; did you mean '{near}'?"));
                let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
                self.add(key.span().start, format!("unknown key '{shown}'{hint}"));
            }
        }
    }

    /// Its keys, in the order of the file.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.table.keys().collect();
        keys.sort_by_key(|key| key.span().start);
        keys.into_iter().map(|key| key.get_ref().to_string()).collect()
    }

    /// Reads `key` with `read`, which gives None where the value is of the wrong kind; that is then a mistake.
    pub(crate) fn value<T>(&mut self, key: &str, wanted: &str, read: impl FnOnce(&'t DeValue<'t>) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            self.mistake(key, format!("'{key}' must be {wanted}, not this {}", value.get_ref().type_str()));
        }
        read
    }

    pub(crate) fn bool(&mut self, key: &str) -> Option<bool> {
        self.value(key, "true or false", DeValue::as_bool)
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<String> {
        self.value(key, "a text of at most 4096 bytes without control characters", |v| clean(v.as_str()?).map(str::to_owned))
    }

    pub(crate) fn number(&mut self, key: &str, low: f64, high: f64) -> Option<f64> {
        let wanted = format!("a finite number from {low} to {high}");
        self.value(key, &wanted, |v| {
            let number: f64 = match v {
                DeValue::Integer(i) if i.radix() == 10 => i.as_str().parse().ok()?,
                DeValue::Float(f) => f.as_str().parse().ok()?,
                _ => return None,
            };
            (number >= low && number <= high).then_some(number)
        })
    }

    pub(crate) fn percent(&mut self, key: &str) -> Option<f64> {
        self.number(key, 0.0, 100.0)
    }

    pub(crate) fn count(&mut self, key: &str) -> Option<u32> {
        self.value(key, "a whole number from 0 to 1000000", |v| {
            let n = v.as_integer().filter(|i| i.radix() == 10)?.as_str().parse().ok()?;
            (n <= 1_000_000).then_some(n)
        })
    }

    pub(crate) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let hint = nearest(&text, &names).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            self.mistake(key, format!("'{}' is none of {}{hint}", short(&text), names.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    pub(crate) fn pattern(&mut self, key: &str) -> Option<Pattern> {
        let text = self.text(key)?;
        Pattern::new(text).map_err(|e| self.mistake(key, e)).ok()
    }

    /// One pattern or a list of them.
    pub(crate) fn patterns(&mut self, key: &str) -> Vec<Pattern> {
        let texts = self.value(key, "a text, or a list of texts", |v| match v {
            DeValue::String(text) => Some(vec![text.to_string()]),
            DeValue::Array(list) => list.iter().map(|v| v.get_ref().as_str().map(str::to_owned)).collect(),
            _ => None,
        });
        let mut patterns = Vec::new();
        for text in texts.unwrap_or_default().into_iter().take(MAX_TEXT) {
            match Pattern::new(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(e) => self.mistake(key, e),
            }
        }
        patterns
    }

    pub(crate) fn requirement(&mut self, key: &str) -> Option<Requirement> {
        let text = self.text(key)?;
        Requirement::new(&text).map_err(|e| self.mistake(key, e)).ok()
    }

    /// A table of requirements by name.
    pub(crate) fn requirements(&mut self, key: &str) -> BTreeMap<String, Requirement> {
        let read = self.table(key, |section| {
            let names: Vec<String> = section.table.keys().take(MAX_NAMES).map(|k| k.get_ref().to_string()).collect();
            names.into_iter().filter_map(|name| Some((clean(&name)?.to_owned(), section.requirement(&name)?))).collect()
        });
        read.unwrap_or_default()
    }

    /// Reads the table at `key`.
    pub(crate) fn table<T>(&mut self, key: &str, read: impl FnOnce(&mut Section<'t, '_>) -> T) -> Option<T> {
        let start = self.get(key)?.span().start;
        let table = self.value(key, &format!("a table: [{key}]"), DeValue::as_table)?;
        Some(read(&mut Section::new(self.text, table, start, self.mistakes)))
    }

    /// Reads each table of the list at `key`.
    pub(crate) fn tables<T>(
        &mut self,
        key: &str,
        most: usize,
        mut read: impl FnMut(&mut Section<'t, '_>) -> Option<T>,
    ) -> Vec<T> {
        let wanted = format!("a list of tables: [[{key}]]");
        let list = self.value(key, &wanted, |v| {
            v.as_array()?.iter().map(|v| Some((v.span().start, v.get_ref().as_table()?))).collect::<Option<Vec<_>>>()
        });
        let list = list.unwrap_or_default();
        if list.len() > most {
            self.mistake(key, format!("there are {} of them; at most {most} are read", list.len()));
            return Vec::new();
        }
        let sections = list.into_iter();
        sections.filter_map(|(start, table)| read(&mut Section::new(self.text, table, start, self.mistakes))).collect()
    }
}

/// `text` where it may be shown anywhere.
fn clean(text: &str) -> Option<&str> {
    (text.len() <= MAX_TEXT && !text.chars().any(char::is_control)).then_some(text)
}

fn short(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// The known word that `word` is most likely a slip of: at most a third of its letters away.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word: Vec<char> = word.chars().take(65).collect();
    let near = known.iter().map(|k| (distance(&word, &k.chars().collect::<Vec<_>>()), *k)).min()?;
    (near.0 <= word.len().div_ceil(3)).then_some(near.1)
}

/// Levenshtein distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_a_slip_and_not_a_guess() {
        let known = ["min", "max", "severity"];
        assert_eq!(nearest("mim", &known), Some("min"));
        assert_eq!(nearest("sevrity", &known), Some("severity"));
        assert_eq!(nearest("threshold", &known), None);
    }

    #[test]
    fn places_count_characters_and_survive_any_byte() {
        let text = "é\nab";
        assert_eq!(place(text, 4), (2, 2));
        assert_eq!(place(text, 1), (1, 1));
        assert_eq!(place(text, 99), (2, 3));
    }
}
