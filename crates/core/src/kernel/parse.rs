//! Reads a kernel's description from a file, and says everything that is wrong with it at once, by line.

use super::{Argument, Data, Expected, Expression, Launch, MAX_ARGUMENTS, MAX_ELEMENTS, Operand, Role, Scalar, Spec};
use crate::section::{Mistake, Section, place};
use crate::{Bytes, Cache, Dtype, Flops, Metric};
use toml::de::{DeTable, DeValue};

/// Largest file accepted, bytes.
const MAX_FILE: usize = 1 << 20;
/// Most sizes, and most results.
const MAX_NAMES: usize = 32;

const KEYS: &[&str] =
    &["name", "entry", "dtype", "cache", "metric", "tolerance", "sizes", "launch", "argument", "work", "reference"];
const BUFFER_KEYS: &[&str] = &["buffer", "dtype", "elements", "role", "data", "seed"];
const SCALAR_KEYS: &[&str] = &["scalar", "type", "value"];

impl Spec {
    /// Reads a description. `sizes` take the place of those in the file.
    ///
    /// # Errors
    /// Every mistake found, by line.
    pub fn parse(text: &str, sizes: &[(String, u64)]) -> Result<Self, Vec<Mistake>> {
        if text.len() > MAX_FILE {
            return Err(vec![Mistake::new((0, 0), format!("a description has at most {} KiB", MAX_FILE >> 10))]);
        }
        let table = DeTable::parse(text).map_err(|e| {
            let at = place(text, e.span().map_or(0, |s| s.start));
            vec![Mistake::new(at, e.message().to_owned())]
        })?;
        let mut mistakes = Vec::new();
        let spec = read(&mut Section::new(text, table.get_ref(), 0, &mut mistakes), sizes);
        mistakes.sort_by_key(|m| (m.line, m.column));
        if mistakes.is_empty() { Ok(spec) } else { Err(mistakes) }
    }
}

/// Named sizes and the room to evaluate formulas over them.
struct Sizes(Vec<(String, u64)>);

fn read(section: &mut Section<'_, '_>, given: &[(String, u64)]) -> Spec {
    section.only(KEYS);
    let name = section.text("name");
    if name.is_none() && !section.has("name") {
        section.missing("name", "what the kernel is called in tables: name = \"fused_add_relu\"");
    }
    let mut spec = Spec::new(name.unwrap_or_default(), Vec::new());
    if let Some(entry) = section.text("entry") {
        spec.entry = entry;
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if section.clean() && !(spec.entry.chars().all(word) && spec.entry.starts_with(|c: char| !c.is_ascii_digit())) {
        section.mistake(
            "entry",
            format!("'entry' must name the function in the source; '{}' cannot be one", spec.entry.escape_debug()),
        );
    }
    let sizes = Sizes(read_sizes(section, given));
    spec.sizes.clone_from(&sizes.0);
    spec.launch = section.table("launch", |s| read_launch(s, &sizes)).unwrap_or(spec.launch);
    spec.arguments = section.tables("argument", MAX_ARGUMENTS, |s| read_argument(s, &sizes));
    if spec.arguments.is_empty() && section.clean() {
        section.missing("argument", "a kernel takes something: [[argument]] entries, in the order of its parameters");
    }
    let mut names: Vec<&str> = spec.formula_names();
    names.extend(spec.operands().filter(|o| o.role == Role::Out).map(|o| o.name.as_str()));
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|w| w[0] == w[1] && !sizes.0.iter().any(|(n, _)| n == w[0])) {
        section.mistake("argument", format!("'{}' names two things", twice[0]));
    }
    let first = spec.operands().next().map(|o| o.dtype);
    spec.dtype = dtype(section).or(first).unwrap_or(Dtype::F32);
    let (flops, bytes) = section.table("work", |s| read_work(s, &sizes)).unwrap_or((Some(0), None));
    let moved = spec.operands().map(|o| o.bytes().0 * if o.role == Role::InOut { 2 } else { 1 }).sum();
    spec = spec.doing(Flops(flops.unwrap_or_default()), Bytes(bytes.unwrap_or(moved)));
    if let Some(metric) = section.choice("metric", &[("bandwidth", Metric::Bandwidth), ("arithmetic", Metric::Arithmetic)]) {
        spec.metric = metric;
    }
    spec.cache = section.choice("cache", &[("cold", Cache::Cold), ("hot", Cache::Hot)]).unwrap_or(Cache::Cold);
    spec.tolerance = section.number("tolerance", 0.0, 1.0);
    if section.clean() && spec.operands().all(|o| o.role == Role::In) {
        section.mistake("argument", "nothing is written: give a result role = \"out\" or \"inout\"".into());
    }
    spec.references = section.table("reference", |s| read_references(s, &spec)).unwrap_or_default();
    let unchecked = spec.operands().find(|o| o.role != Role::In && !spec.references.iter().any(|(name, _)| *name == o.name));
    if let (true, Some(operand)) = (section.clean(), unchecked) {
        let name = &operand.name;
        section.mistake(
            "reference",
            format!("what '{name}' must be is missing: [reference] {name} = \"a formula\" or {{ file = \"{name}.npy\" }}"),
        );
    }
    if let (true, Err(e)) = (section.clean(), spec.case()) {
        section.mistake("name", e);
    }
    spec
}

fn read_sizes(section: &mut Section<'_, '_>, given: &[(String, u64)]) -> Vec<(String, u64)> {
    let sizes = section.table("sizes", |s| {
        let names = s.keys();
        if names.len() > MAX_NAMES {
            s.mistake("", format!("there are {} sizes; at most {MAX_NAMES} are read", names.len()));
        }
        let mut sizes = Vec::new();
        for name in names.into_iter().take(MAX_NAMES) {
            // A size may be made of those before it.
            let value = amount(s, &name, &Sizes(sizes.clone()), 1, MAX_ELEMENTS);
            let value = given.iter().find(|(n, _)| *n == name).map(|(_, value)| *value).or(value);
            sizes.push((name, value.unwrap_or(1)));
        }
        sizes
    });
    let sizes = sizes.unwrap_or_default();
    for (name, value) in given {
        if !sizes.iter().any(|(n, _)| n == name) {
            let known: Vec<&str> = sizes.iter().map(|(n, _)| n.as_str()).collect();
            section.mistake(
                "sizes",
                format!("there is no size '{}' to be made {value}; there are: {}", name.escape_debug(), known.join(", ")),
            );
        }
    }
    sizes
}

fn read_launch(section: &mut Section<'_, '_>, sizes: &Sizes) -> Launch {
    section.only(&["grid", "block", "shared_bytes"]);
    for key in ["grid", "block"] {
        if !section.has(key) {
            section.missing(key, "how the kernel is launched: grid = \"ceil(n / 256)\", block = 256, or three of each");
        }
    }
    let u32s = |v: Vec<u64>| [0, 1, 2].map(|axis| v.get(axis).map_or(1, |n| *n as u32));
    Launch {
        grid: u32s(amounts(section, "grid", sizes, 1, i32::MAX as u64)),
        block: u32s(amounts(section, "block", sizes, 1, 1024)),
        shared_bytes: amount(section, "shared_bytes", sizes, 0, 1 << 20).unwrap_or(0) as u32,
    }
}

fn read_work(section: &mut Section<'_, '_>, sizes: &Sizes) -> (Option<u64>, Option<u64>) {
    section.only(&["flops", "bytes"]);
    let most = 1 << 53;
    (amount(section, "flops", sizes, 0, most), amount(section, "bytes", sizes, 0, most))
}

fn read_argument(section: &mut Section<'_, '_>, sizes: &Sizes) -> Option<Argument> {
    match (section.has("buffer"), section.has("scalar")) {
        (true, false) => read_buffer(section, sizes).map(Argument::Buffer),
        (false, true) => read_scalar(section, sizes),
        _ => {
            section.missing("buffer", "an argument is either a buffer = \"name\" or a scalar = \"name\"");
            None
        }
    }
}

fn read_buffer(section: &mut Section<'_, '_>, sizes: &Sizes) -> Option<Operand> {
    section.only(BUFFER_KEYS);
    let name = name(section, "buffer")?;
    for (key, what) in [("dtype", "the type of its elements: dtype = \"f32\""), ("elements", "how many: elements = \"n\"")] {
        if !section.has(key) {
            section.missing(key, what);
        }
    }
    let dtype = dtype(section);
    if let Some(narrow) = dtype.filter(|d| d.element_bytes().is_none() || d.block_scale().is_some()) {
        section.mistake("dtype", format!("{narrow} is no plain array of whole bytes: describe it as i8"));
        return None;
    }
    let elements = amount(section, "elements", sizes, 1, MAX_ELEMENTS);
    let role = section.choice("role", &[("in", Role::In), ("out", Role::Out), ("inout", Role::InOut)]);
    let mut operand = Operand::input(name, dtype?, elements?);
    operand.role = role.unwrap_or(Role::In);
    let seed = section.has("seed").then(|| section.count("seed")).flatten().map(u64::from);
    if let (Data::Normal(own), Some(seed)) = (&mut operand.data, seed) {
        *own = seed;
    }
    if let Some(data) = section.value("data", "\"normal\", \"uniform\", a number, or the name of a .npy file", data_word) {
        let Data::Normal(seed) = operand.data else { return None };
        operand.data = match data {
            Data::Normal(_) => Data::Normal(seed),
            Data::Uniform(_) => Data::Uniform(seed),
            other => other,
        };
        if operand.role == Role::Out {
            section.mistake("data", "a result has no data at the start: it is poisoned".into());
        }
    }
    Some(operand)
}

fn data_word(value: &DeValue<'_>) -> Option<Data> {
    match value {
        DeValue::Integer(i) => i.as_str().parse().ok().map(Data::Constant),
        DeValue::Float(f) => f.as_str().parse().ok().filter(|x: &f64| x.is_finite()).map(Data::Constant),
        DeValue::String(text) => match text.as_ref() {
            "normal" => Some(Data::Normal(0)),
            "uniform" => Some(Data::Uniform(0)),
            file if file.ends_with(".npy") && !file.chars().any(char::is_control) => Some(Data::File(file.to_owned())),
            _ => None,
        },
        _ => None,
    }
}

fn read_scalar(section: &mut Section<'_, '_>, sizes: &Sizes) -> Option<Argument> {
    section.only(SCALAR_KEYS);
    let name = name(section, "scalar")?;
    for (key, what) in [("type", "u32, i32, u64 or f32"), ("value", "a number, or a formula of sizes as a text")] {
        if !section.has(key) {
            section.missing(key, what);
        }
    }
    type Make = fn(f64) -> Option<Scalar>;
    let types: &[(&str, Make)] = &[
        ("u32", |x| fits(x, 0.0, f64::from(u32::MAX)).then_some(Scalar::U32(x as u32))),
        ("i32", |x| fits(x, f64::from(i32::MIN), f64::from(i32::MAX)).then_some(Scalar::I32(x as i32))),
        ("u64", |x| fits(x, 0.0, 9e15).then_some(Scalar::U64(x as u64))),
        ("f32", |x| (x as f32).is_finite().then_some(Scalar::F32(x as f32))),
    ];
    let make = section.choice("type", types)?;
    let number = number(section, "value", sizes)?;
    match make(number) {
        Some(value) => Some(Argument::Scalar { name, value }),
        None => {
            section.mistake("value", format!("{number} is no value of this type"));
            None
        }
    }
}

fn fits(x: f64, low: f64, high: f64) -> bool {
    x.fract() == 0.0 && (low..=high).contains(&x)
}

fn read_references(section: &mut Section<'_, '_>, spec: &Spec) -> Vec<(String, Expected)> {
    let results: Vec<&Operand> = spec.operands().filter(|o| o.role != Role::In).collect();
    let names: Vec<&str> = results.iter().map(|o| o.name.as_str()).collect();
    section.only(&names);
    let formula_names = spec.formula_names();
    let mut references = Vec::new();
    for result in results {
        let name = result.name.as_str();
        let wanted = "a formula as a text, or { file = \"expected.npy\" }";
        let read = section.value(name, wanted, |v| match v {
            DeValue::String(text) => Some(Ok(text.to_string())),
            DeValue::Table(table) => table.get("file")?.get_ref().as_str().map(|file| Err(file.to_owned())),
            _ => None,
        });
        match read {
            None => {}
            Some(Err(file)) if file.ends_with(".npy") => references.push((name.to_owned(), Expected::File(file))),
            Some(Err(file)) => section.mistake(name, format!("'{}' is no .npy file", file.escape_debug())),
            Some(Ok(text)) => match Expression::parse(&text, &formula_names) {
                Err(e) => section.mistake(name, e),
                Ok(formula) => {
                    // An element is made of those of its own index.
                    let other =
                        spec.operands().find(|o| o.role != Role::Out && o.elements < result.elements && mentions(&text, &o.name));
                    if let Some(other) = other {
                        section.mistake(
                            name,
                            format!(
                                "'{}' has {} elements and {name} {}: a formula is over one index",
                                other.name, other.elements, result.elements
                            ),
                        );
                    }
                    references.push((name.to_owned(), Expected::Formula(formula)));
                }
            },
        }
    }
    references
}

/// True if `name` stands in `text` as a word.
fn mentions(text: &str, name: &str) -> bool {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|word| word == name)
}

/// A name that a formula can use.
fn name(section: &mut Section<'_, '_>, key: &str) -> Option<String> {
    let text = section.text(key)?;
    let good = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.len() <= 64
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !good {
        section.mistake(key, format!("a name is made of letters, digits and '_', not '{}'", text.escape_debug()));
    }
    good.then_some(text)
}

fn dtype(section: &mut Section<'_, '_>) -> Option<Dtype> {
    let text = section.text("dtype")?;
    text.parse().map_err(|e| section.mistake("dtype", e)).ok()
}

/// A number, or a formula of the sizes.
fn number(section: &mut Section<'_, '_>, key: &str, sizes: &Sizes) -> Option<f64> {
    let text = section.value(key, "a number, or a formula of sizes as a text", scalar_text)?;
    evaluate(&text, sizes).map_err(|e| section.mistake(key, e)).ok()
}

fn scalar_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Integer(i) if i.radix() == 10 => Some(i.as_str().to_owned()),
        DeValue::Float(f) => Some(f.as_str().to_owned()),
        DeValue::String(text) => Some(text.to_string()),
        _ => None,
    }
}

fn evaluate(text: &str, sizes: &Sizes) -> Result<f64, String> {
    let names: Vec<&str> = sizes.0.iter().map(|(name, _)| name.as_str()).collect();
    let values: Vec<f64> = sizes.0.iter().map(|(_, value)| *value as f64).collect();
    Ok(Expression::parse(text, &names)?.value(&values, &mut Vec::new()))
}

/// A whole number from `low` to `high`.
fn amount(section: &mut Section<'_, '_>, key: &str, sizes: &Sizes, low: u64, high: u64) -> Option<u64> {
    let number = number(section, key, sizes)?;
    check(number, low, high).map_err(|e| section.mistake(key, e)).ok()
}

/// One of them or a list of up to three.
fn amounts(section: &mut Section<'_, '_>, key: &str, sizes: &Sizes, low: u64, high: u64) -> Vec<u64> {
    let texts = section.value(key, "a number, a formula as a text, or a list of up to three", |v| match v {
        DeValue::Array(list) if (1..=3).contains(&list.len()) => list.iter().map(|v| scalar_text(v.get_ref())).collect(),
        DeValue::Array(_) => None,
        one => Some(vec![scalar_text(one)?]),
    });
    let mut numbers = Vec::new();
    for text in texts.unwrap_or_default() {
        match evaluate(&text, sizes).and_then(|n| check(n, low, high)) {
            Ok(number) => numbers.push(number),
            Err(e) => section.mistake(key, e),
        }
    }
    numbers
}

fn check(number: f64, low: u64, high: u64) -> Result<u64, String> {
    if fits(number, low as f64, high as f64) {
        return Ok(number as u64);
    }
    let hint = if number.fract() != 0.0 && number.is_finite() { " (round with ceil or floor)" } else { "" };
    Err(format!("this is {number}; it must be a whole number from {low} to {high}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = r#"
name = "fused_add_relu"
tolerance = 0

[sizes]
n = 1048576

[launch]
grid = "ceil(n / 1024)"
block = 256

[[argument]]
buffer = "a"
dtype = "f32"
elements = "n"

[[argument]]
buffer = "b"
dtype = "f32"
elements = "n"
data = "uniform"
seed = 7

[[argument]]
buffer = "out"
dtype = "f32"
elements = "n"
role = "out"

[[argument]]
scalar = "count"
type = "u64"
value = "n"

[work]
flops = "2 * n"

[reference]
out = "max(a + b, 0)"
"#;

    #[test]
    fn a_good_file_reads() {
        let spec = Spec::parse(GOOD, &[]).unwrap();
        assert_eq!((spec.entry.as_str(), spec.launch.grid, spec.launch.block), ("fused_add_relu", [1024, 1, 1], [256, 1, 1]));
        assert_eq!((spec.work.flops.0, spec.work.bytes.0, spec.metric), (2 << 20, 12 << 20, Metric::Bandwidth));
        assert_eq!(spec.arguments[3], Argument::Scalar { name: "count".into(), value: Scalar::U64(1 << 20) });
        let case = spec.case().unwrap();
        assert_eq!((case.id.as_str(), case.data), ("kernel/fused_add_relu/n1048576/f32", crate::Distribution::Given));
        let smaller = Spec::parse(GOOD, &[("n".into(), 1000)]).unwrap();
        assert_eq!((smaller.launch.grid[0], smaller.case().unwrap().id.as_str()), (1, "kernel/fused_add_relu/n1000/f32"));
    }

    #[test]
    fn every_mistake_has_its_line_and_a_remedy() {
        let text = r#"nmae = "x"
entry = "2nd"
[sizes]
n = "2 * m"
[launch]
grid = 1.5
[[argument]]
buffer = "a"
dtype = "f23"
elements = "n"
[[argument]]
buffer = "b c"
[[argument]]
scalar = "s"
type = "u8"
value = 300
[[argument]]
dtype = "f32"
[[argument]]
buffer = "d"
dtype = "mxfp4"
elements = 4
[work]
flop = 1
"#;
        let shown: Vec<String> = Spec::parse(text, &[("k".into(), 1)]).unwrap_err().iter().map(ToString::to_string).collect();
        let shown = shown.join("\n");
        for (line, words) in [
            (1, "did you mean 'name'?"),
            (1, "'name' is missing"),
            (4, "'m' is not known here"),
            (3, "there is no size 'k'"),
            (6, "a whole number from 1 to 2147483647 (round with ceil or floor)"),
            (5, "'block' is missing"),
            (9, "'f23' is no dtype"),
            (12, "a name is made of letters"),
            (15, "'u8' is none of u32, i32, u64, f32"),
            (17, "either a buffer"),
            (21, "mxfp4 is no plain array"),
            (24, "did you mean 'flops'?"),
        ] {
            assert!(shown.lines().any(|l| l.starts_with(&format!("{line}:")) && l.contains(words)), "{line} {words}\n{shown}");
        }
    }

    #[test]
    fn what_is_not_whole_is_told_once_the_rest_is_right() {
        for (from, to, words) in [
            ("[reference]\nout = \"max(a + b, 0)\"", "", "what 'out' must be is missing"),
            ("max(a + b, 0)", "max(a + c, 0)", "'c' is not known here"),
            ("max(a + b, 0)", "max(out, 0)", "'out' is not known here"),
            ("role = \"out\"", "", "nothing is written"),
            ("buffer = \"b\"", "buffer = \"a\"", "'a' names two things"),
            ("elements = \"n\"\ndata", "elements = 5\ndata", "'b' has 5 elements and out 1048576"),
            ("name = \"fused_add_relu\"", "name = \"a/b\"\nentry = \"f\"", "no '/'"),
            ("role = \"out\"", "role = \"out\"\ndata = 3", "it is poisoned"),
        ] {
            let mistakes = Spec::parse(&GOOD.replacen(from, to, 1), &[]).unwrap_err();
            assert!(mistakes[0].text.contains(words), "{to}: {mistakes:?}");
        }
    }

    #[test]
    fn files_and_lists_read() {
        let text = GOOD.replace("data = \"uniform\"", "data = \"b.npy\"").replace("block = 256", "block = [16, 16]");
        let text = text.replace("out = \"max(a + b, 0)\"", "out = { file = \"out.npy\" }");
        let spec = Spec::parse(&text, &[]).unwrap();
        assert_eq!((spec.launch.block, &spec.references[0].1), ([16, 16, 1], &Expected::File("out.npy".into())));
        assert!(spec.operands().any(|o| o.data == Data::File("b.npy".into())));
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_a_mistake_or_a_description(at in 0usize..GOOD.len(), with in any::<char>()) {
            let mut text: Vec<char> = GOOD.chars().collect();
            text[at] = with;
            let _ = Spec::parse(&text.into_iter().collect::<String>(), &[]);
        }
    }
}
