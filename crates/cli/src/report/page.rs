//! One self-contained page: data, style and script in one file, no network, readable on a phone and in print. Scripts only draw,
//! and set text as text; every figure in the data was derived before.

const STYLE: &str = include_str!("page/style.css");
const COMMON: &str = include_str!("page/common.js");

/// The page. `title` is text of our own, `data` is JSON.
pub(super) fn page(title: &str, data: &str, script: &str) -> String {
    // `<` never appears raw in the data, so no string of a record can close the element.
    let data = data.replace('<', "\\u003c");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <main id=\"page\"><noscript>This page draws its tables with a script that it carries; please allow it.</noscript></main>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{COMMON}{script}</script>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Asserts that a page's script stays within the page and takes no text for markup.
    pub(crate) fn stays_inside(script: &str) {
        for text in [STYLE, COMMON, script] {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for word in
                ["http://", "https://", "//cdn", "@import", "url(", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval("]
            {
                assert!(!text.contains(word), "{word}");
            }
        }
    }

    #[test]
    fn a_hostile_text_cannot_leave_the_data() {
        let page = page("t", "{\"host\":\"</script><script>alert(1)</script>\"}", "");
        assert_eq!(page.matches("<script").count(), 2);
    }
}
