//! Values along one axis of a sweep, as they are written on a command line: `4096,8192`, `1024:8192:1024`, `256:8192:x2`.

/// Most values of one axis.
const MOST: usize = 4096;
/// Largest size of an operand's side: what comes from a command line must not overflow the counts.
const LARGEST: u64 = 1 << 20;

/// Distinct values, the smallest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// The values.
    pub(crate) values: Vec<u64>,
}

impl Axis {
    /// Reads a list of numbers and ranges, in any order; the end of a range is part of it where a step meets it.
    ///
    /// # Errors
    /// One sentence that says what is wrong and how it is written.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut values = Vec::new();
        for part in text.split(',') {
            match part.split(':').collect::<Vec<_>>().as_slice() {
                [one] => values.push(size(one)?),
                [start, end] => range(size(start)?, size(end)?, "1", &mut values)?,
                [start, end, step] => range(size(start)?, size(end)?, step, &mut values)?,
                _ => return Err(format!("'{}' is no range; one is start:stop:step", part.escape_debug())),
            }
            if values.len() > MOST {
                return Err(format!("more than {MOST} values; a larger step is needed"));
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(Self { values })
    }
}

fn size(text: &str) -> Result<u64, String> {
    let number = text.trim().parse::<u64>().map_err(|_| {
        format!(
            "'{}' is no size; write a number, a list (4096,8192) or a range (1024:8192:1024, 256:8192:x2)",
            text.escape_debug()
        )
    })?;
    if (1..=LARGEST).contains(&number) { Ok(number) } else { Err(format!("a size is from 1 to {LARGEST}; this one is {number}")) }
}

/// Adds `start`, and what comes after it by a step or a factor, up to `end`.
fn range(start: u64, end: u64, step: &str, values: &mut Vec<u64>) -> Result<(), String> {
    if start > end {
        return Err(format!("the range {start}:{end} is empty: it starts above its end"));
    }
    let (factor, digits) = step.strip_prefix('x').map_or((false, step), |digits| (true, digits));
    let by: u64 = digits.parse().map_err(|_| format!("'{}' is no step; 1024 adds, x2 multiplies", step.escape_debug()))?;
    if by == 0 || (factor && by == 1) {
        return Err(format!("a step of {step} never comes to the end of {start}:{end}"));
    }
    let next = |value: &u64| if factor { value.checked_mul(by) } else { value.checked_add(by) };
    values.extend(std::iter::successors(Some(start), next).take_while(|v| *v <= end).take(MOST + 1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_ranges_and_powers_are_read() {
        for (text, values) in [
            ("4096", &[4096][..]),
            ("8192,4096,8192", &[4096, 8192]),
            ("1024:4096:1024", &[1024, 2048, 3072, 4096]),
            ("1000:2500:1000", &[1000, 2000]),
            ("7:7:100", &[7]),
            ("1:3", &[1, 2, 3]),
            ("256:2048:x2", &[256, 512, 1024, 2048]),
            ("1,16,64:192:64", &[1, 16, 64, 128, 192]),
        ] {
            assert_eq!(Axis::parse(text).unwrap().values, values, "{text}");
        }
    }

    #[test]
    fn mistakes_say_what_to_write_instead() {
        for (text, words) in [
            ("", "is no size"),
            ("big", "is no size"),
            ("0", "from 1 to"),
            ("99999999", "from 1 to"),
            ("8:4:1", "is empty"),
            ("1:8:0", "never comes to the end"),
            ("1:8:x1", "never comes to the end"),
            ("1:8:fast", "is no step"),
            ("1:2:3:4", "start:stop:step"),
            ("1:1048576:1", "a larger step"),
        ] {
            let said = Axis::parse(text).unwrap_err();
            assert!(said.contains(words), "{text}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_axis_or_a_sentence(text in "[0-9x:,. -]{0,24}") {
            if let Ok(axis) = Axis::parse(&text) {
                prop_assert!(!axis.values.is_empty() && axis.values.len() <= MOST && axis.values.is_sorted());
            }
        }
    }
}
