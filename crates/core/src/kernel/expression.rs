//! Formulas over named numbers: what an element of a result must be (`max(a + b, 0)`), or how large something is
//! (`ceil(n / 256)`). A formula from a file is read into a list of steps and evaluated in float64; nothing of it is executed.

use crate::Dtype;

/// Longest formula accepted, bytes.
const MAX_LENGTH: usize = 4096;
/// Deepest nesting accepted.
const MAX_DEPTH: usize = 64;

/// A formula, ready to be evaluated.
#[derive(Clone, Debug)]
pub struct Expression {
    text: String,
    /// In postfix order.
    steps: Vec<Step>,
}

impl PartialEq for Expression {
    /// Formulas over the same names are alike where their texts are.
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Number(f64),
    Name(usize),
    One(fn(f64) -> f64),
    Two(fn(f64, f64) -> f64),
    /// `if(condition, then, otherwise)`.
    If,
    /// Rounded as the dtype holds it.
    Round(Dtype),
}

type One = fn(f64) -> f64;
type Two = fn(f64, f64) -> f64;

const ONE: &[(&str, One)] = &[
    ("abs", f64::abs),
    ("ceil", f64::ceil),
    ("cos", f64::cos),
    ("exp", f64::exp),
    ("floor", f64::floor),
    ("log", f64::ln),
    ("round", f64::round_ties_even),
    ("sin", f64::sin),
    ("sqrt", f64::sqrt),
    ("tanh", f64::tanh),
];
// A NaN is a fault that must be seen: unlike those of f64, this smallest and largest keep it.
const TWO: &[(&str, Two)] = &[
    ("max", |a, b| if a.is_nan() || a > b { a } else { b }),
    ("min", |a, b| if a.is_nan() || a < b { a } else { b }),
    ("pow", f64::powf),
];
/// Operators by rising precedence, the longer of two that begin alike first.
const LEVELS: [&[(&str, Two)]; 3] = [
    &[
        ("<=", |a, b| f64::from(a <= b)),
        (">=", |a, b| f64::from(a >= b)),
        ("==", |a, b| f64::from(a == b)),
        ("<", |a, b| f64::from(a < b)),
        (">", |a, b| f64::from(a > b)),
    ],
    &[("+", |a, b| a + b), ("-", |a, b| a - b)],
    &[("*", |a, b| a * b), ("/", |a, b| a / b), ("%", |a, b| a % b)],
];

impl Expression {
    /// Reads a formula over `names`; their values come in this order.
    ///
    /// # Errors
    /// One sentence that says where.
    pub fn parse(text: &str, names: &[&str]) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("a formula has at most {MAX_LENGTH} characters"));
        }
        let mut reader = Reader { text, at: 0, depth: 0, names, steps: Vec::new() };
        reader.level(0)?;
        match reader.peek() {
            None => Ok(Self { text: text.to_owned(), steps: reader.steps }),
            Some(c) => Err(reader.wrong(&format!("'{}' is not expected", c.escape_debug()))),
        }
    }

    /// Its value; `stack` is room to work in, kept by whoever evaluates often.
    #[must_use]
    pub fn value(&self, values: &[f64], stack: &mut Vec<f64>) -> f64 {
        stack.clear();
        for step in &self.steps {
            let result = match step {
                Step::Number(x) => *x,
                Step::Name(index) => values.get(*index).copied().unwrap_or(f64::NAN),
                Step::One(f) => f(pop(stack)),
                Step::Round(dtype) => dtype.round(pop(stack)),
                Step::Two(f) => {
                    let b = pop(stack);
                    f(pop(stack), b)
                }
                Step::If => {
                    let (otherwise, then) = (pop(stack), pop(stack));
                    if pop(stack) == 0.0 { otherwise } else { then }
                }
            };
            stack.push(result);
        }
        pop(stack)
    }
}

/// The reader leaves no formula that takes more than it has put there.
fn pop(stack: &mut Vec<f64>) -> f64 {
    stack.pop().unwrap_or(f64::NAN)
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    names: &'t [&'t str],
    steps: Vec<Step>,
}

impl<'t> Reader<'t> {
    fn wrong(&self, what: &str) -> String {
        let column = self.text[..self.at].chars().count() + 1;
        format!("at character {column} of the formula: {what}")
    }

    /// What follows, spaces aside.
    fn rest(&mut self) -> &'t str {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        &self.text[self.at..]
    }

    fn peek(&mut self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// A chain of the operators of a level.
    fn level(&mut self, level: usize) -> Result<(), String> {
        let Some(operators) = LEVELS.get(level) else { return self.factor() };
        self.level(level + 1)?;
        while let Some((_, apply)) = operators.iter().find(|(word, _)| self.take(word)) {
            self.level(level + 1)?;
            self.steps.push(Step::Two(*apply));
        }
        Ok(())
    }

    fn factor(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong("nested too deep"));
        }
        match self.peek() {
            Some('-') => {
                self.at += 1;
                self.factor()?;
                self.steps.push(Step::One(|x| -x));
            }
            Some('(') => {
                self.at += 1;
                self.level(0)?;
                self.close()?;
            }
            Some(c) if c.is_ascii_digit() || c == '.' => self.number()?,
            Some(c) if c.is_ascii_alphabetic() || c == '_' => self.word()?,
            Some(c) => return Err(self.wrong(&format!("a number or a name is expected, not '{}'", c.escape_debug()))),
            None => return Err(self.wrong("it ends too early")),
        }
        self.depth -= 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        if self.take(")") { Ok(()) } else { Err(self.wrong("a ')' is expected")) }
    }

    fn number(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let mut end = 0;
        let bytes = rest.as_bytes();
        while let Some(c) = bytes.get(end) {
            // A sign belongs to a number right after its e.
            let sign = matches!(c, b'+' | b'-') && end > 0 && matches!(bytes[end - 1], b'e' | b'E');
            if !(c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E') || sign) {
                break;
            }
            end += 1;
        }
        let number = rest[..end].parse::<f64>().map_err(|_| self.wrong(&format!("'{}' is no number", &rest[..end])))?;
        self.at += end;
        self.steps.push(Step::Number(number));
        Ok(())
    }

    fn word(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let word = &rest[..rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len())];
        if let Some(index) = self.names.iter().position(|name| *name == word) {
            self.at += word.len();
            self.steps.push(Step::Name(index));
            return Ok(());
        }
        let one = ONE.iter().find(|(name, _)| *name == word).map(|(_, f)| (1, Step::One(*f)));
        let two = TWO.iter().find(|(name, _)| *name == word).map(|(_, f)| (2, Step::Two(*f)));
        let round = word.parse::<Dtype>().ok().filter(|d| d.block_scale().is_none()).map(|d| (1, Step::Round(d)));
        let choice = (word == "if").then_some((3, Step::If));
        let Some((takes, step)) = one.or(two).or(round).or(choice) else {
            let functions: Vec<&str> = ONE.iter().map(|(n, _)| *n).chain(TWO.iter().map(|(n, _)| *n)).collect();
            let names =
                if self.names.is_empty() { "there is no name".to_owned() } else { format!("names: {}", self.names.join(", ")) };
            return Err(self.wrong(&format!(
                "'{word}' is not known here ({names}; functions: {}, if(condition, then, otherwise), and each dtype, which rounds)",
                functions.join(", ")
            )));
        };
        self.at += word.len();
        if !self.take("(") {
            return Err(self.wrong(&format!("a '(' is expected after {word}")));
        }
        for argument in 0..takes {
            if argument > 0 && !self.take(",") {
                return Err(self.wrong(&format!("{word} takes {takes} arguments")));
            }
            self.level(0)?;
        }
        self.close()?;
        self.steps.push(step);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str) -> Result<f64, String> {
        Ok(Expression::parse(text, &["a", "b", "n"])?.value(&[3.0, -5.0, 1000.0], &mut Vec::new()))
    }

    #[test]
    fn formulas_mean_what_they_do_elsewhere() {
        for (text, expected) in [
            ("max(a + b, 0)", 0.0),
            ("max(a - b, 0)", 8.0),
            ("1 + 2 * 3 - 4 / 2", 5.0),
            ("2 - 3 - 4", -5.0),
            ("-(a + 1) * -2", 8.0),
            ("ceil(n / 256)", 4.0),
            ("if(a > 2, 10, 20) + (b >= 0)", 10.0),
            ("1e3 + 2.5e-1", 1000.25),
            ("bf16(1.001) + i8(300)", 128.0),
            ("pow(2, 10) % 1000", 24.0),
            ("a==3", 1.0),
        ] {
            assert_eq!(value(text), Ok(expected), "{text}");
        }
        assert!(value("max(0 / 0, 1)").unwrap().is_nan() && value("max(1, 0 / 0)").unwrap().is_nan());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let deep = format!("{}a{}", "(".repeat(1000), ")".repeat(1000));
        for (text, words) in [
            ("", "it ends too early"),
            ("a +", "at character 4 of the formula: it ends too early"),
            ("max(a)", "max takes 2 arguments"),
            ("(a", "a ')' is expected"),
            ("a b", "at character 3 of the formula: 'b' is not expected"),
            ("1.2.3", "'1.2.3' is no number"),
            ("system(1)", "'system' is not known here (names: a, b, n; functions: abs"),
            ("exp", "a '(' is expected after exp"),
            ("é", "not 'é'"),
            (&deep, "nested too deep"),
            (&"1+".repeat(4000), "at most 4096"),
        ] {
            let error = value(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[abnmaxif(),.0-9e+*/<>= \u{e9}-]{0,80}") {
            let _ = value(&text);
        }
    }
}
