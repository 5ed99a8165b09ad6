//! JUnit XML, as CI servers read it: a suite a node, a test a finding. FAIL is a failure (WARN too where warnings are), SKIP and
//! INVALID are skipped, an unreadable record is an error. Each suite begins with its node's own verdict, so that a node on which
//! nothing was judged is no empty suite that passes.

use super::{Acceptance, expected, gathered, measured, rule, times, what};
use crate::report::text::clean;
use ridgepoint_core::verdict::{Finding, NodeVerdict, Verdict};
use std::fmt::Write;

/// One test.
struct Test {
    name: String,
    verdict: Verdict,
    /// The kind of failure or skip.
    code: String,
    /// What there is to say.
    text: String,
}

/// Tests of a suite, failures, errors, skipped.
type Counts = (usize, usize, usize, usize);

pub(super) fn render(a: &Acceptance) -> String {
    let j = &a.judgement;
    let mut suites = String::new();
    let mut all: Counts = (0, 0, 0, 0);
    for node in &j.nodes {
        let mut tests = vec![of_node(node)];
        tests.extend(gathered(j.findings_of(&node.node)).into_iter().map(of_finding));
        suite(&mut suites, &mut all, a.strict, &node.node, &properties(node), &tests);
    }
    if !j.fleet.is_empty() {
        suite(&mut suites, &mut all, a.strict, "fleet", &[], &j.fleet.iter().map(|f| of_finding((f, 1))).collect::<Vec<_>>());
    }
    unreadable(&mut suites, &mut all, a);
    let (tests, failures, errors, skipped) = all;
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"ridgepoint accept\" tests=\"{tests}\" failures=\"{failures}\" \
         errors=\"{errors}\" skipped=\"{skipped}\" time=\"0\">\n{suites}</testsuites>\n"
    )
}

fn of_node(node: &NodeVerdict) -> Test {
    let c = node.counts;
    Test {
        name: "verdict".into(),
        verdict: node.verdict,
        code: "node".into(),
        text: format!("{} passed, {} warned, {} failed, {} skipped, {} invalid", c.pass, c.warn, c.fail, c.skip, c.invalid),
    }
}

fn of_finding((f, n): (&Finding, u32)) -> Test {
    let name = [times(&rule(f), n), f.device.clone().unwrap_or_default(), what(f)];
    let text = format!("{} (measured {}, expected {}; threshold: {})", f.text, measured(f), expected(f), f.evidence.threshold);
    Test {
        name: name.into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" "),
        verdict: f.verdict,
        code: f.reason.to_string(),
        text: f.evidence.record.as_ref().map_or_else(|| text.clone(), |r| format!("{text}; record {r}")),
    }
}

fn properties(node: &NodeVerdict) -> Vec<(String, String)> {
    let mut all = vec![
        ("started".to_owned(), node.started.clone()),
        ("command".to_owned(), node.command.join(" ")),
        ("ridgepoint".to_owned(), format!("{}, method {}", node.version, node.method)),
    ];
    all.extend(node.devices.iter().map(|d| (d.id.clone(), format!("{} {}", d.model, d.pci.as_deref().unwrap_or_default()))));
    all
}

fn suite(out: &mut String, all: &mut Counts, strict: bool, name: &str, properties: &[(String, String)], tests: &[Test]) {
    let failed = |t: &&Test| t.verdict == Verdict::Fail || (strict && t.verdict == Verdict::Warn);
    let failures = tests.iter().filter(failed).count();
    let skipped = tests.iter().filter(|t| matches!(t.verdict, Verdict::Skip | Verdict::Invalid)).count();
    *all = (all.0 + tests.len(), all.1 + failures, all.2, all.3 + skipped);
    let name = xml(name);
    let _ = writeln!(
        out,
        "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\" time=\"0\">",
        tests.len()
    );
    if !properties.is_empty() {
        out.push_str("    <properties>\n");
        for (key, value) in properties {
            let _ = writeln!(out, "      <property name=\"{}\" value=\"{}\"/>", xml(key), xml(value));
        }
        out.push_str("    </properties>\n");
    }
    for t in tests {
        let _ = write!(out, "    <testcase classname=\"{name}\" name=\"{}\" time=\"0\"", xml(&t.name));
        let (code, text) = (xml(&t.code), xml(&t.text));
        let _ = match t.verdict {
            Verdict::Pass => writeln!(out, "/>"),
            Verdict::Warn if !strict => writeln!(out, "><system-out>WARN [{code}] {text}</system-out></testcase>"),
            Verdict::Warn | Verdict::Fail => {
                writeln!(out, "><failure type=\"{code}\" message=\"{text}\">{} [{code}] {text}</failure></testcase>", t.verdict)
            }
            Verdict::Skip | Verdict::Invalid => {
                writeln!(out, "><skipped message=\"{} [{code}] {text}\"/></testcase>", t.verdict)
            }
        };
    }
    out.push_str("  </testsuite>\n");
}

/// What could not be read, one error each.
fn unreadable(out: &mut String, all: &mut Counts, a: &Acceptance) {
    let problems = &a.judgement.problems;
    if problems.is_empty() {
        return;
    }
    let n = problems.len();
    *all = (all.0 + n, all.1, all.2 + n, all.3);
    let _ =
        writeln!(out, "  <testsuite name=\"record files\" tests=\"{n}\" failures=\"0\" errors=\"{n}\" skipped=\"0\" time=\"0\">");
    for p in problems {
        let _ = writeln!(
            out,
            "    <testcase classname=\"record files\" name=\"{}:{}\" time=\"0\"><error type=\"unreadable\" message=\"{}\"/></testcase>",
            xml(&p.file),
            p.line,
            xml(&p.text)
        );
    }
    out.push_str("  </testsuite>\n");
}

/// Text as XML 1.0 takes it in elements and attributes; what it has no character for becomes U+FFFD.
fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_what_xml_lacks_are_text() {
        assert_eq!(xml("<a b=\"c\">&'\u{7}\u{ffff}"), "&lt;a b=&quot;c&quot;&gt;&amp;&apos;\u{fffd}\u{fffd}");
    }

    #[test]
    fn warnings_fail_only_where_they_are_failures() {
        let test = |verdict| Test { name: "t".into(), verdict, code: "c".into(), text: String::new() };
        let tests = Verdict::ALL.map(test);
        for (strict, failures) in [(false, 1), (true, 2)] {
            let (mut out, mut all) = (String::new(), (0, 0, 0, 0));
            suite(&mut out, &mut all, strict, "n", &[], &tests);
            assert_eq!(all, (5, failures, 0, 2), "{out}");
            assert_eq!(out.matches("<failure").count(), failures);
        }
    }
}
